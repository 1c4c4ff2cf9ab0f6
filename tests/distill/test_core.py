import pytest
import torch
from safetensors.torch import save_file

from dmsae_ray.distill.core import Core, distilled_core, empty_core, load_core, save_core
from dmsae_ray.distill.lineage import LineageId
from dmsae_ray.errors import DataError


def some_core(c=5, d=8):
    rows = torch.randn(c, d, generator=torch.Generator().manual_seed(1))
    return Core(rows, tuple(LineageId(i % 2, i) for i in range(c)), {"k": 4, "nested": {"a": [1, None]}})


@pytest.mark.parametrize("c", [0, 1, 5])
def test_a_core_file_holds_rows_lineage_and_provenance(tmp_path, c):
    core = some_core(c)
    save_core(core, tmp_path / "deep" / "c.safetensors")
    back = load_core(tmp_path / "deep" / "c.safetensors", d_model=8)
    assert torch.equal(back.rows, core.rows)
    assert back.lineage == core.lineage
    assert back.provenance == core.provenance
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


def test_bad_core_files_are_one_line_errors(tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(DataError, match="no file"):
        load_core(path)
    save_core(some_core(), path)
    with pytest.raises(DataError, match="width 8, the model needs 16"):
        load_core(path, d_model=16)
    whole = path.read_bytes()
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="truncated or not a core file") as error:
            load_core(path)
        assert "\n" not in str(error.value)
    path.write_bytes(b"not safetensors at all, whatever its name says")
    with pytest.raises(DataError, match="not a core file"):
        load_core(path)
    save_file({"rows": torch.zeros(2, 3)}, path)
    with pytest.raises(DataError, match="not a core file"):
        load_core(path)
    save_core(Core(torch.full((1, 3), torch.nan), (LineageId(0, 0),)), path)
    with pytest.raises(DataError, match="not finite"):
        load_core(path)


DEEP = 100_000


@pytest.mark.parametrize(
    ("rows", "header"),
    [
        (torch.zeros(2, 3), {"lineage": "[" * DEEP}),
        (torch.zeros(2, 3), {"provenance": "[" * DEEP + "]" * DEEP}),
        (torch.zeros(2, 3), {"lineage": "[[Infinity, 0], [0, 1]]"}),
        (torch.zeros(2, 3), {"provenance": "[1]"}),
        (torch.zeros(2, 3), {"provenance": '{"bearing_seeds": [1]}'}),
        (torch.zeros(2, 3), {"origins": '[[[], 0], ["a", 1]]'}),
        (torch.zeros(2, 3, dtype=torch.int64), {}),
        (torch.zeros(2, 3, dtype=torch.complex64), {}),
        (torch.full((2, 3), 1e300, dtype=torch.float64), {}),
        (torch.full((2, 3), torch.nan).to(torch.float8_e4m3fn), {}),
        (torch.zeros(2, 3), {"format": "evil" * 1000}),
    ],
    ids=range(11),
)
def test_a_core_file_of_a_stranger_is_a_one_line_error(rows, header, tmp_path):
    path = tmp_path / "core.safetensors"
    plain = {"format": "dmsae-core-1", "lineage": "[[0, 0], [0, 1]]", "provenance": "{}", "origins": "[]"}
    save_file({"rows": rows}, path, metadata={**plain, **header})
    with pytest.raises(DataError, match=r"not a core file|not finite") as error:
        load_core(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_rows_and_ids_must_belong_together():
    with pytest.raises(DataError, match="do not belong together"):
        Core(torch.zeros(2, 3), (LineageId(0, 0),))
    with pytest.raises(DataError, match="same lineage id"):
        Core(torch.zeros(2, 3), (LineageId(0, 0), LineageId(0, 0)))


def test_the_distilled_core_keeps_the_order_and_rows_of_the_last_core():
    first = some_core()
    last = Core(first.rows[[4, 0, 2]], (first.lineage[4], first.lineage[0], LineageId(7, 7)), {})
    distilled = distilled_core([first, last])
    assert distilled.lineage == (first.lineage[4], first.lineage[0])
    assert torch.equal(distilled.rows, first.rows[[4, 0]])
    assert len(distilled_core([first, empty_core(8)])) == 0


def test_a_core_from_another_run_becomes_cycle_0_of_this_one():
    core = some_core()
    origin = core.as_origin()
    assert origin.lineage == tuple(LineageId(0, i) for i in range(5))
    assert origin.provenance["origin_lineage"][1] == [1, 1]
