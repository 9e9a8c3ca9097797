"""The fleet file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import FleetInvalid
from servekit.fleet.fleet import Fleet, FleetModel, FleetReplica, load_fleet, parse_fleet

_TWO = """
models:
  - {name: m, short_name: m}
replicas:
  - {name: m-1, model: m, gpus: [0], port: 8001}
  - {name: m-2, model: m, gpus: [1], port: 8002}
"""


def test_h100_is_the_fleet_of_six() -> None:
    """Three models, two replicas each, Mixtral over two GPUs, ports 8001 to 8006."""
    fleet = load_fleet("h100")

    assert [(r.gpus, r.port) for r in fleet.replicas] == [
        ((0,), 8001),
        ((1,), 8002),
        ((2,), 8003),
        ((3,), 8004),
        ((4, 5), 8005),
        ((6, 7), 8006),
    ]
    assert [len(fleet.replicas_of(model.name)) for model in fleet.models] == [2, 2, 2]


def test_replica_knows_its_url() -> None:
    """IPv6 hosts get their brackets."""
    replica = FleetReplica(name="r", model="m", gpus=(0,), port=80)

    assert replica.url == "http://127.0.0.1:80"
    assert (
        FleetReplica(name="r", model="m", gpus=(0,), port=80, host="::1").url == "http://[::1]:80"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("gpus: [1]", "gpus: [0]"), "GPU 0 of 127.0.0.1 is used by 'm-1' and 'm-2'"),
        (("gpus: [1]", "gpus: [1, 1]"), "GPU 1 of 127.0.0.1 is listed twice by 'm-2'"),
        (("8002", "8001"), "'m-1' and 'm-2' both listen on 127.0.0.1:8001"),
        (("8002", "99999"), "port 99999; it must be from 1 to 65535"),
        (("8002", "none"), "Expected `int`, got `str`"),
        (("m-2", "m-1"), "duplicate replica 'm-1'"),
        (("model: m, gpus: [1]", "model: n, gpus: [1]"), "serves 'n', which is not among"),
        (("gpus: [1]", "gpus: [1, 2]"), r"needs 1 \(tensor_parallel_size\)"),
        (("gpus: [1]", "gpus: [-1]"), "GPU indices start at 0"),
        (("short_name: m}", "short_name: m, gpus: 3}"), "unknown field `gpus`"),
        (("- {name: m, short_name: m}", "- {name: m, short_name: m}\n  - {name: n, short_name: n}"),
         "model 'n' has no replica"),
        (("short_name: m}", "short_name: m, gpu_memory_utilization: 1.5}"), "1.5; it must be"),
        (("short_name: m}", "short_name: m, max_model_len: 0}"), "at least 1"),
        (("models:", "models: ["), "not YAML"),
    ],
)  # fmt: skip
def test_contradiction_is_named(change: tuple[str, str], message: str) -> None:
    """Each error names the file, the fact and the value."""
    with pytest.raises(FleetInvalid, match=message) as caught:
        parse_fleet(_TWO.replace(*change), "fleet.yaml")

    assert str(caught.value).startswith("fleet.yaml: ")
    assert "\n" not in str(caught.value)


def test_same_port_on_two_hosts_is_fine() -> None:
    """GPUs and ports belong to a host."""
    text = _TWO.replace("gpus: [1], port: 8002", "gpus: [0], port: 8001, host: 10.0.0.2")

    assert len(parse_fleet(text).replicas) == 2


def test_a_gpu_may_be_shared_by_shares() -> None:
    """Replicas may be on one GPU as long as their shares of its memory add up to at most all."""
    halves = _TWO.replace("short_name: m}", "short_name: m, gpu_memory_utilization: 0.5}")
    shared = halves.replace("gpus: [1]", "gpus: [0]")

    assert [replica.gpus for replica in parse_fleet(shared).replicas] == [(0,), (0,)]
    with pytest.raises(FleetInvalid, match=r"which take 1\.02 of its memory"):
        parse_fleet(shared.replace("0.5}", "0.51}"))


def test_a_replica_without_gpus_runs_on_the_cpu() -> None:
    """Unless its model needs several."""
    on_cpu = _TWO.replace("gpus: [1]", "gpus: []")

    assert parse_fleet(on_cpu).replicas[1].gpus == ()
    with pytest.raises(FleetInvalid, match=r"needs 2"):
        parse_fleet(on_cpu.replace("short_name: m}", "short_name: m, tensor_parallel_size: 2}"))


@pytest.mark.parametrize("name", ["h100", "l4", "colocated", "cpu"])
def test_each_fleet_of_ours_is_valid(name: str) -> None:
    """And has a port per replica."""
    assert load_fleet(name).replicas


def test_unknown_name_lists_ours(tmp_path: Path) -> None:
    """Neither a file nor a name of ours: the names are given."""
    with pytest.raises(FleetInvalid, match=r"built-in: .*h100"):
        load_fleet(str(tmp_path / "nowhere.yaml"))


def test_file_of_ones_own_is_read(tmp_path: Path) -> None:
    """Any path will do."""
    path = tmp_path / "mine.yaml"
    path.write_text(_TWO)

    assert load_fleet(str(path)) == parse_fleet(_TWO)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    """Bytes that are no text are the file's fault, and it is named."""
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(FleetInvalid, match=r"mine\.yaml"):
        load_fleet(str(path))


_REPLICAS = st.builds(
    FleetReplica,
    name=st.sampled_from(["r1", "r2", "r3"]),
    model=st.sampled_from(["m", "n"]),
    gpus=st.lists(st.integers(-1, 3), max_size=2).map(tuple),
    port=st.integers(8000, 8003),
)
_MODELS = st.builds(
    FleetModel,
    name=st.sampled_from(["m", "n"]),
    short_name=st.sampled_from(["m", "n"]),
    tensor_parallel_size=st.integers(0, 2),
)


@given(models=st.lists(_MODELS, max_size=2), replicas=st.lists(_REPLICAS, max_size=4))
def test_valid_fleet_has_each_gpu_and_port_once(
    models: list[FleetModel], replicas: list[FleetReplica]
) -> None:
    """What can be built at all has each GPU, port and name once, and every model served."""
    try:
        fleet = Fleet(models=tuple(models), replicas=tuple(replicas))
    except FleetInvalid:
        return

    gpus = [gpu for replica in fleet.replicas for gpu in replica.gpus]
    ports = [replica.port for replica in fleet.replicas]
    assert len(gpus) == len(set(gpus))
    assert len(ports) == len(set(ports))
    assert {replica.model for replica in fleet.replicas} == {model.name for model in fleet.models}


@given(text=st.text())
def test_any_text_is_a_fleet_or_refused(text: str) -> None:
    """Nothing but FleetInvalid comes out of a text that is no fleet."""
    try:
        parse_fleet(text)
    except FleetInvalid as error:
        assert "\n" not in str(error)
