import pytest

from pluriform.translate.watch import Watch


def test_a_discriminator_that_wins_is_told_once(caplog):
    watch = Watch("tsit")
    for update in range(400):
        watch.see(update, {"generator": 1.0, "told_apart": 0.7 if update < 150 else 1.0})
    assert caplog.text.count("the discriminator has won") == 1
    assert "lower discriminator_rate" in caplog.text
    (event,) = watch.events
    assert 150 < event.update < 400
    assert event.to_json()["what"] == "the discriminator has won"


def test_it_is_told_again_after_it_was_over(caplog):
    watch = Watch("tsit")
    for update in range(2000):
        watch.see(update, {"generator": 1.0, "told_apart": 0.6 if 600 < update < 1000 else 1.0})
    assert caplog.text.count("has won") == 2
    assert watch.events[0].update == 100


def test_a_loss_that_runs_away(caplog):
    watch = Watch("tsit")
    for update in range(300):
        watch.see(update, {"generator": 2.0 if update < 200 else 200.0, "told_apart": 0.6})
    assert "the generator's loss runs away" in caplog.text
    assert [event.what for event in watch.events] == ["the generator's loss runs away"]


def test_a_healthy_game_says_nothing(caplog):
    watch = Watch("tsit")
    for update in range(1000):
        watch.see(update, {"generator": 1.0 + update % 7, "told_apart": 0.5 + 0.05 * (update % 10)})
    watch.see(1000, {"generator": float("nan"), "told_apart": 1.0})
    assert not caplog.text
    assert watch.events == ()
    assert watch.state.isfinite().all()


def test_what_is_remembered_is_one_tensor():
    first, second = Watch("a"), Watch("a")
    figures = [{"generator": 1.0 + i % 3, "told_apart": 1.0} for i in range(300)]
    for update, own in enumerate(figures):
        first.see(update, own)
        if update == 120:
            second.state.copy_(first.state)
        if update > 120:
            second.see(update, own)
    assert first.state.tolist() == pytest.approx(second.state.tolist(), abs=0)
    assert first.events == second.events
