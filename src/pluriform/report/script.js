"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const NARROW = 520;
  let printing = false;

  const remembered = () => { try { return localStorage.getItem("pluriform-theme"); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem("pluriform-theme", theme); } catch { /* a page without storage */ } };
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";

  // Colours are names in the figures ("@ink", "@form-0/0.3") and variables in the style sheet.
  function paint(name) {
    if (name === "@clear") return "rgba(0,0,0,0)";
    const [key, alpha] = name.slice(1).split("/");
    const hex = getComputedStyle(root).getPropertyValue("--" + key).trim();
    if (!alpha) return hex;
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  }
  function resolved(value, key = "") {
    if (Array.isArray(value)) return value.map((item) => resolved(item, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolved(v, k)]));
    }
    return typeof value === "string" && value.startsWith("@") && key.toLowerCase().endsWith("color") ? paint(value) : value;
  }

  function mark(spec) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "-10 -10 20 20");
    svg.setAttribute("class", `glyph c${spec.colour}`);
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", `#mark-${spec.marker}`);
    svg.append(use);
    return svg;
  }

  function frame(plot) {
    const figure = document.createElement("figure");
    if (plot.title) {
      const caption = document.createElement("figcaption");
      if (plot.mark) caption.append(mark(plot.mark));
      const title = document.createElement("span");
      plot.title.split(/(?<=[a-z0-9])(?=[A-Z(])/).forEach((part, i) => title.append(...(i ? [document.createElement("wbr"), part] : [part])));
      caption.append(title);
      figure.append(caption);
      if (plot.note) {
        const note = document.createElement("p");
        note.textContent = plot.note;
        figure.append(note);
      }
    }
    const target = document.createElement("div");
    target.className = "plot";
    target.setAttribute("role", "img");
    target.setAttribute("aria-label", plot.description);
    figure.append(target);
    return [figure, target];
  }

  async function draw(target, plot) {
    if (!target.isConnected) return; // Another view was chosen meanwhile.
    const width = Math.floor(target.getBoundingClientRect().width);
    const layout = { ...plot.layout, ...(width < NARROW ? plot.narrow : {}), width };
    layout.font = { ...layout.font, family: getComputedStyle(document.body).fontFamily };
    await Plotly.react(target, resolved(plot.data), resolved(layout), { displayModeBar: false, responsive: false, doubleClick: false });
    target.dataset.width = width;
  }

  const shown = new Map();

  async function show(container, view) {
    for (const [target] of shown.get(container) || []) Plotly.purge(target);
    const frames = view.plots.map((plot) => [plot, ...frame(plot)]);
    container.replaceChildren(...frames.map(([, figure]) => figure));
    shown.set(container, frames.map(([plot, , target]) => [target, plot]));
    for (const [plot, , target] of frames) await draw(target, plot);
  }

  async function redraw(all = true) {
    for (const plots of shown.values()) {
      for (const [target, plot] of plots) {
        if (all || Math.floor(target.getBoundingClientRect().width) !== Number(target.dataset.width)) await draw(target, plot);
      }
    }
  }

  function choose(section, container, views) {
    const groups = [...section.querySelectorAll(".choice")];
    const wanted = () => {
      const chosen = {};
      for (const button of section.querySelectorAll(".choice button[aria-pressed=true]")) chosen[button.dataset.choice] = button.dataset.option;
      return chosen;
    };
    const fits = (view, chosen) => Object.entries(chosen).every(([at, option]) => view.chosen[at] === option);
    for (const group of groups) {
      group.addEventListener("click", async (event) => {
        const button = event.target.closest("button");
        if (!button) return;
        for (const other of group.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
        let view = views.find((candidate) => fits(candidate, wanted()));
        if (!view) { // Not every pair was measured: keep what was clicked, take the first that goes with it.
          view = views.find((candidate) => candidate.chosen[button.dataset.choice] === button.dataset.option) || views[0];
          for (const other of section.querySelectorAll(".choice button")) {
            other.setAttribute("aria-pressed", String(view.chosen[other.dataset.choice] === other.dataset.option));
          }
        }
        await show(container, view);
      });
    }
  }

  function label(button) {
    button.lastElementChild.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Switch to the light page" : "Switch to the dark page");
  }

  document.addEventListener("DOMContentLoaded", async () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    label(button);
    button.addEventListener("click", async () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      label(button);
      await redraw();
    });
    dark.addEventListener("change", async () => { label(button); if (!printing) await redraw(); });

    const figures = JSON.parse(document.getElementById("figures").textContent);
    for (const container of document.querySelectorAll("[data-figure]")) {
      const views = figures[container.dataset.figure];
      choose(container.closest("section"), container, views);
      await show(container, views[0]);
      await new Promise((resume) => setTimeout(resume, 0));
    }
    root.dataset.drawn = "true";

    let pending;
    addEventListener("resize", () => { clearTimeout(pending); pending = setTimeout(() => redraw(false), 120); });
    let before;
    addEventListener("beforeprint", () => { printing = true; before = root.dataset.theme; root.dataset.theme = "light"; redraw(); });
    addEventListener("afterprint", () => {
      printing = false;
      if (before) root.dataset.theme = before; else delete root.dataset.theme;
      redraw();
    });
  });
})();
