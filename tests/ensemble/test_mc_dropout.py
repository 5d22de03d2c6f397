"""MC dropout: masks that belong to members, not to inputs, and what they do to the network."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pluriform as pf
from pluriform.ensemble.masks import MaskSource, dropping, masked_layers
from pluriform.ensemble.mc_dropout import MCDropout
from pluriform.errors import ConfigError
from pluriform.ordinary import Training
from pluriform.training.recipe import Recipe

QUICK = Recipe(epochs=2)


class WithLayers(nn.Module):
    """Channel dropout before a convolution, feature dropout before the head, one layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3)
        self.channels, self.features = nn.Dropout2d(0.25), nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(6 * 36, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = self.channels(F.relu(self.first(x)))
        x = self.features(F.relu(self.second(x)).flatten(1))
        return self.head(self.features(F.relu(self.hidden(x))))


@pytest.fixture(scope="module")
def data():
    return pf.load("digits", seed=0)


@pytest.fixture(scope="module")
def own(data):
    torch.manual_seed(0)
    return MCDropout(members=6, training=Recipe(epochs=12)).fit(WithLayers(), data, seed=2)


@pytest.fixture(scope="module")
def inserted(data):
    torch.manual_seed(0)
    return MCDropout(members=6, rate=0.3, training=QUICK).fit(WithLayers(), data, seed=2)


def test_rate_zero_is_the_deterministic_network(data):
    net = pf.nets.build("mlp", data, seed=1)
    form = MCDropout(members=3, rate=0, training=QUICK).fit(net, data, seed=4)
    plain = Training(epochs=2).fit(net, data, seed=4)
    x = data.test.inputs[:40]
    for member in form.predict(x).members:
        assert torch.allclose(member, plain.predict(x).mean, atol=1e-6)


@pytest.mark.parametrize("kind", ["own", "inserted"])
def test_a_member_is_the_same_network_for_every_input(kind, data, request):
    form, x = request.getfixturevalue(kind), data.test.inputs[:12]
    with torch.no_grad():
        whole = form.outputs(x)
        single = torch.cat([form.outputs(part) for part in x.split(1)], dim=1)
        twice = form.outputs(x[:1].expand(5, -1, -1, -1))
    assert torch.allclose(whole, single, atol=1e-5)
    assert torch.allclose(twice, twice[:, :1].expand_as(twice), atol=1e-5)
    assert (whole.std(0) > 0).all()


@pytest.mark.parametrize("kind", ["own", "inserted"])
def test_a_materialised_member_predicts_as_the_member(kind, data, request):
    form, x = request.getfixturevalue(kind), data.test.inputs[:30]
    for i in (0, 5):
        made = form.materialize(i)
        assert type(made) is WithLayers
        assert torch.allclose(made(x), form.outputs(x)[i], atol=1e-5)


def test_inserted_dropout_gives_the_users_own_keys(inserted, data):
    made = inserted.materialize(1)
    stock = WithLayers()
    stock.load_state_dict(made.state_dict())
    x = data.test.inputs[:30]
    assert torch.allclose(stock.eval()(x), inserted.outputs(x)[1], atol=1e-6)


def test_inserted_masks_are_zeros_at_the_input_of_the_layers(inserted, data):
    """By hand: multiply the activations by the masks instead of the weights."""
    net, drawn, x = inserted.template, inserted.source.draw([11]), data.test.inputs[:9]
    assert sorted(drawn) == ["head.weight", "hidden.weight", "second.weight"]
    masks = {name: _mask_of(drawn[name][0], net.get_parameter(name)) for name in drawn}
    h = F.relu(net.first(x)) * masks["second.weight"][:, None, None]
    h = F.relu(net.second(h)).flatten(1) * masks["hidden.weight"]
    expected = net.head(F.relu(net.hidden(h)) * masks["head.weight"])
    assert torch.allclose(inserted.with_seeds([11]).outputs(x)[0], expected, atol=1e-5)
    values = torch.cat([*masks.values()])
    assert set(values.mul(0.7).round(decimals=4).tolist()) == {0.0, 1.0}


def _mask_of(drawn, weight):
    ratio = (drawn / weight).transpose(0, 1).flatten(1)
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-5)
    return ratio[:, 0]


def test_masks_of_own_layers_have_their_rates_and_shapes(own):
    drawn = own.source.draw(range(400))
    shapes = {name: tuple(value.shape[1:]) for name, value in drawn.items()}
    assert shapes == {"channels.mask_4x1x1": (4, 1, 1), "features.mask_216": (216,), "features.mask_20": (20,)}
    for name, rate in (("channels.mask_4x1x1", 0.25), ("features.mask_216", 0.5), ("features.mask_20", 0.5)):
        assert (drawn[name] == 0).float().mean() == pytest.approx(rate, abs=0.05)
        assert drawn[name].mean() == pytest.approx(1.0, abs=0.05)


def test_grouped_convolutions_lose_whole_input_channels():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(6, 9, 3, groups=3, bias=False), torch.randn(2, 6, 7, 7)
    weight = MaskSource({"conv": layer}, 0.5).draw([5])["conv.weight"][0]
    kept = torch.rand(6, generator=torch.Generator().manual_seed(5)) >= 0.5
    expected = layer(x * kept[:, None, None] * 2)
    assert 0 < kept.sum() < 6
    assert torch.allclose(F.conv2d(x, weight, groups=3), expected, atol=1e-5)


def test_training_drops_each_sample_alone_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = nn.Linear(50, 50, bias=False)
    nn.init.eye_(layer.weight)
    tokens = torch.ones(300, 4, 50)
    with dropping({"layer": layer}, 0.3):
        out = layer.train()(tokens)
        assert torch.equal(layer.eval()(tokens), tokens)
    assert torch.equal(out[:, :1].expand_as(out), out)
    assert not torch.equal(out[0], out[1])
    assert out.detach().mean() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(layer.train()(tokens), tokens)


def test_own_layers_train_as_torch_trains_them(data):
    """The layers that hold masks draw the numbers of the layers they replace."""
    torch.manual_seed(0)
    net = WithLayers()
    masked = copy.deepcopy(net).eval()
    masked_layers(masked, {"channels": masked.channels, "features": masked.features}, data.train.inputs[:2])
    outputs = []
    for one in (net, masked):
        torch.manual_seed(7)
        outputs.append(one.train()(data.train.inputs[:8]))
    assert torch.equal(*outputs)
    x = data.train.inputs[:8]
    assert torch.equal(net.eval()(x), masked.eval()(x))


def test_dropout_learns_and_is_less_sure_where_it_errs(own, data):
    seen = own.predict(data.test.inputs)
    assert (seen.mean.argmax(-1) == data.test.targets).float().mean() > 0.6
    entropy = -(seen.mean * seen.mean.log()).sum(-1)
    wrong = seen.mean.argmax(-1) != data.test.targets
    assert entropy[wrong].mean() > entropy[~wrong].mean() + 0.1


def test_regression_members_and_noise(data, shared_data):
    table = pf.load("uci-regression:yacht")
    form = MCDropout(members=5, rate=0.2, training=QUICK).fit(pf.nets.build("mlp", table), table)
    found = form.predict(table.test.inputs)
    assert found.members.shape == (5, *found.mean.shape)
    assert (found.variance > form.noise).all()


def test_a_transformer_keeps_its_masks_without_gradients():
    """The fused layer of torch would pass over them."""
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.4, batch_first=True)
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            return self.head(self.layer(x.flatten(1, 2)).mean(1))

    data = pf.load("digits", seed=0)
    form = MCDropout(members=3, training=Recipe(epochs=1)).fit(Tokens(), data, seed=1)
    x = data.test.inputs[:5]
    with torch.no_grad():
        closed = form.materialize(0)(x)
        assert (form.outputs(x).std(0) > 0).all()
    assert torch.allclose(form.materialize(0)(x), closed, atol=1e-5)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        return self.second(F.dropout(self.first(x.flatten(1)).relu(), 0.5, self.training))


def test_bad_networks_and_rates_are_refused(data):
    with pytest.raises(ConfigError, match=r"dropout as layers.*torch\.nn\.Dropout"):
        MCDropout().fit(Functional(), data)
    alpha = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.AlphaDropout(0.1), nn.Linear(20, 10))
    with pytest.raises(ConfigError, match=r"Dropout2d or Dropout3d; got AlphaDropout.*set rate"):
        MCDropout().fit(alpha, data)
    with pytest.raises(ConfigError, match="two linear or convolutional layers"):
        MCDropout().fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data)
    with pytest.raises(ConfigError, match=r"rate in \[0, 1\)"):
        MCDropout(rate=1.0)


def test_axes_before_the_batch_are_noticed():
    layer, net = nn.Dropout(0.5), nn.Module()
    net.forward = lambda x: layer(x.transpose(0, 1))
    with pytest.raises(ConfigError, match=r"\(batch, \*features\).*batch_first"):
        masked_layers(net, {"drop": layer}, torch.ones(2, 5, 3))


def test_a_network_without_dropout_gets_some(data):
    form = MCDropout(members=2, training=Recipe(epochs=1)).fit(pf.nets.build("mlp", data), data)
    drawn = form.source.draw(range(50))
    assert len(drawn) == 2
    for mask in drawn.values():
        assert (mask == 0).float().mean() == pytest.approx(0.1, abs=0.02)


def test_layers_that_share_a_weight_get_no_dropout(data):
    """A mask of one would be a mask of all of them."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.head = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)
            self.other = nn.Linear(16, 16)
            self.other.weight = self.again.weight

        def forward(self, x):
            h = self.first(x.flatten(1)).relu()
            return self.head(self.other(self.again(h).relu()).relu())

    form = MCDropout(members=2, rate=0.5, training=Recipe(epochs=1)).fit(Tied(), data)
    assert list(form.source.draw([1])) == ["head.weight"]


def test_dropout_of_the_network_is_off_where_a_rate_is_given(data):
    """One rate rules: own layers and inserted ones do not add up."""
    torch.manual_seed(0)
    net = WithLayers()
    form = MCDropout(members=2, rate=0.0, training=QUICK).fit(net, data, seed=2)
    bare = copy.deepcopy(net)
    bare.channels.p = bare.features.p = 0.0
    plain = Training(epochs=2).fit(bare, data, seed=2)
    x = data.test.inputs[:20]
    assert torch.allclose(form.predict(x).mean, plain.predict(x).mean, atol=1e-6)
    assert net.features.p == 0.5


def test_the_form_survives_saving(own, data, tmp_path):
    again = pf.load_form(own.save(tmp_path / "form"))
    x = data.test.inputs[:10]
    assert torch.equal(again.predict(x).members, own.predict(x).members)
    assert torch.equal(again.draw(3, seed=5).predict(x).members, own.draw(3, seed=5).predict(x).members)
