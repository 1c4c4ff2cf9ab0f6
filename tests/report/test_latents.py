import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.cli.commands import main
from dmsae_ray.cli.latents import numbers
from dmsae_ray.config.sections import ActivationSettings
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.evaluation.latent_firing import FiringCollector
from dmsae_ray.files.folder import Folder
from dmsae_ray.lm.tiny import tiny_model
from dmsae_ray.lm.token_text import TokenText
from dmsae_ray.lm.tokenizer import load_tokenizer
from dmsae_ray.report.core_latents import random_best_cosine, sweep_latents
from dmsae_ray.report.latent_page import embedded, latent_sections, latents_section, payload, write_latents
from dmsae_ray.report.latent_study import Wanted
from dmsae_ray.report.latent_table import LatentRow, LatentTable
from dmsae_ray.report.latents_of_sae import sae_latents
from dmsae_ray.report.visible_text import visible
from dmsae_ray.sae.files import load_sae, save_sae
from dmsae_ray.store.reader import Store
from tests.browser import browser_tab
from tests.report.small_output import ABOUT


@pytest.fixture(scope="module")
def table(small_output: Path) -> LatentTable:
    return sweep_latents(small_output)


def last_sae(sweep: Path, trial: str) -> Path:
    summary = json.loads((sweep / "trials" / trial / "summary.json").read_text())
    return sweep.parent.parent / "cycles" / summary["records"][-1]["key"] / "sae"


def held_out(sweep: Path) -> tuple[Store, torch.Tensor, torch.Tensor]:
    """The store, all its held-out rows, and the place of each in the held-out tokens."""
    (folder,) = (sweep.parent.parent / "stores").iterdir()
    store = Store(Folder(str(folder)), folder.name, ActivationSettings())
    shards = [store.read("eval", n) for n in range(store.layout.shards("eval"))]
    step = store.layout.contexts_per_shard * store.layout.context
    places = [shard["position"].long() + n * step for n, shard in enumerate(shards)]
    return store, torch.cat([shard["x"] for shard in shards]), torch.cat(places)


def test_where_latents_fire_is_what_the_whole_sae_says(small_output: Path, table: LatentTable) -> None:
    store, x, place = held_out(small_output)
    tokens = store.eval_tokens()
    for trial in {row.trial for row in table.rows}:
        z = load_sae(last_sae(small_output, trial)).encode(x)
        dense = torch.zeros(tokens.numel(), z.shape[1])
        dense[place] = z
        dense = dense.view(*tokens.shape, -1)
        for row in (row for row in table.rows if row.trial == trial):
            found, own = row.firing, z[:, row.latent]
            assert found is not None and found.tokens == len(x)
            assert found.fired == int((own > 0).sum()) > 0
            assert found.maximum == pytest.approx(float(own.max()), rel=1e-5)
            assert int(found.histogram.sum()) == found.fired
            peaks = dense[:, :, row.latent].amax(1).sort(descending=True).values[:12]
            strongest = torch.tensor([snippet.activation for snippet in found.top])
            torch.testing.assert_close(strongest, peaks[peaks > 0], rtol=1e-5, atol=1e-5)
            for snippet in found.top:
                inside = slice(snippet.start, snippet.start + len(snippet.tokens))
                assert snippet.tokens.tolist() == tokens[snippet.context, inside].tolist()
                wanted = dense[snippet.context, inside, row.latent]
                torch.testing.assert_close(snippet.activations.nan_to_num(0), wanted, rtol=1e-5, atol=1e-5)


def test_promoted_tokens_are_those_of_a_plain_product(small_output: Path, table: LatentTable) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)
    gain, embedding = 1 + model.model.norm.weight, model.get_output_embeddings().weight
    for row in table.rows:
        decoder = load_sae(last_sae(small_output, row.trial)).W_dec[row.latent]
        change = (decoder * gain) @ embedding.T
        for pairs, largest in ((row.promoted, True), (row.suppressed, False)):
            wanted = change.topk(15, largest=largest)
            torch.testing.assert_close(torch.tensor([v for _, v in pairs]), wanted.values, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(change[[t for t, _ in pairs]], wanted.values, rtol=1e-4, atol=1e-5)


def test_a_lineage_has_its_own_row_score_and_nearest_latent(small_output: Path, table: LatentTable) -> None:
    cycles = small_output.parent.parent / "cycles"
    encoder = {}
    for trial in ("k4-tau0.6-seed0", "k4-tau0.6-seed1"):
        summary = json.loads((small_output / "trials" / trial / "summary.json").read_text())
        keys = [record["key"] for record in summary["records"]]
        saes = [load_sae(cycles / key / "sae") for key in keys]
        rows = [row for row in table.rows if row.trial == trial]
        assert [row.name for row in rows] == [f"{c}.{i}" for c, i in summary["lineage"][-1]]
        assert {row.name for row in rows if row.distilled} == {f"{c}.{i}" for c, i in summary["distilled_lineage"]}
        for row in rows:
            born, origin = map(int, row.name.split("."))
            learned = saes[born].W_enc[origin]
            assert torch.equal(saes[-1].W_enc[row.latent], learned), "the row that cycle `born` learned, bit for bit"
            encoder[row.anchor] = learned
            assert row.born == born and row.survived == 2 - born and len(row.scores) == 3
            for cycle, score in enumerate(row.scores):
                if cycle < born:
                    assert score is None
                    continue
                (place,) = (n for n, r in enumerate(saes[cycle].W_enc) if torch.equal(r, learned))
                scores = _scores(cycles / keys[cycle])
                assert score == pytest.approx(float(scores[place] / scores.sum()))
        assert all(a.scores[-1] >= b.scores[-1] for a, b in pairwise(rows))  # type: ignore[operator]
    for row in table.rows:
        cosine = {
            name: float(torch.cosine_similarity(encoder[row.anchor].double(), other.double(), dim=0))
            for name, other in encoder.items()
            if not name.startswith(row.trial)
        }
        (near,) = row.nearest
        assert near.cosine == pytest.approx(max(cosine.values())) == pytest.approx(cosine[near.anchor])


def _scores(cycle: Path) -> torch.Tensor:
    import safetensors.torch

    return safetensors.torch.load_file(cycle / "tensors.safetensors")["scores"]


def test_cosines_of_random_directions_are_as_said() -> None:
    g = torch.Generator().manual_seed(0)
    v = torch.nn.functional.normalize(torch.randn(2000, 50, 16, generator=g), dim=2)
    assert random_best_cosine(16, 49) == pytest.approx(float((v[:, 1:] @ v[:, :1].mT).amax((1, 2)).median()), abs=0.01)


# --- the page ---


@settings(max_examples=40)
@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_embedded_json_is_the_same_data_and_no_markup(tree: object) -> None:
    text = embedded(tree)
    assert json.loads(text) == tree
    assert not set("<>&\u2028\u2029") & set(text) and text.isascii()


def test_signs_stand_for_what_does_not_show() -> None:
    assert visible("a\n\tb\x00\u202e\u2028") == "a↵→b␀⟨U+202E⟩⟨U+2028⟩"
    assert visible("日本 é 👩\u200d🔬") == "日本 é 👩\u200d🔬"


def test_the_page_works_in_a_browser(table: LatentTable, tmp_path: Path) -> None:
    file = write_latents(table, tmp_path / "latents.html")
    said: list[str] = []
    with browser_tab() as tab:
        page = tab.page
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.goto(file.as_uri())
        rows = page.locator("#latents-app tbody tr")
        assert rows.count() == len(table.rows)

        page.fill("#latents-filter", "seed1")
        assert rows.count() == sum(row.seed == 1 for row in table.rows)
        page.fill("#latents-filter", "nothing is like this")
        assert rows.count() == 0
        page.fill("#latents-filter", "")
        page.click("text=distilled core only")
        assert rows.count() == sum(row.distilled for row in table.rows)
        page.click("text=distilled core only")

        page.click("th >> text=fires at")
        by_frequency = sorted(table.rows, key=lambda row: -(row.frequency or 0))
        assert rows.first.get_attribute("data-id") == by_frequency[0].anchor
        page.click("th >> text=fires at")
        assert rows.first.get_attribute("data-id") == by_frequency[-1].anchor
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("fires")

        # By keyboard: to the first latent, to the next, and back to its place in the table.
        rows.first.locator("a").first.focus()
        page.keyboard.press("Enter")
        assert page.url.endswith(f"#latent-{by_frequency[-1].anchor}")
        assert page.locator("article h3").inner_text().startswith(f"Latent {by_frequency[-1].name}")
        page.click("text=next")
        assert page.url.endswith(f"#latent-{by_frequency[-2].anchor}")
        page.keyboard.press("Escape")
        assert rows.count() == len(table.rows) and page.locator("article").is_hidden()
        assert page.evaluate("document.activeElement.closest('tr').dataset.id") == by_frequency[-2].anchor
        page.go_back()
        assert page.locator("article").is_visible()

        # A permalink opens the page: every text of a document is there as text.
        hostile = next(row for row in table.rows if any("script" in _text(table, s) for s in _top(row)))
        page.goto(f"{file.as_uri()}#latent-{hostile.anchor}")
        page.reload()
        shown = page.locator("article").inner_text()
        assert "script>" in shown and "onerror" in page.content()
        assert page.locator("article img, article script").count() == 0
        assert page.locator(".latents-snippets").first.locator("li").count() == len(_top(hostile))
        values = page.locator(".latents-snippets li .number").all_inner_texts()
        assert float(values[0]) == pytest.approx(_top(hostile)[0].activation, rel=5e-3)
        assert page.locator(".latents-words li").count() == 30
        assert (tab.errors, said) == ([], [])
        assert set(tab.requests) <= {file.as_uri(), f"{file.as_uri()}#latent-{hostile.anchor}"}


def _top(row: LatentRow) -> tuple:  # type: ignore[type-arg]
    return row.firing.top if row.firing is not None else ()


def _text(table: LatentTable, snippet) -> str:  # type: ignore[no-untyped-def]
    assert table.text is not None
    return "".join(table.text.several(snippet.tokens.tolist()))


def test_300_latents_stay_below_20_mb_even_where_every_token_fires(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    collector = FiringCollector(300, top=12)
    z = torch.rand(70, 64, 300, generator=g) * 1e-3
    collector.add(z, torch.ones(70, 64, dtype=torch.bool), torch.randint(0, 1000, (70, 64), generator=g))
    pairs = tuple((n, 0.1234567 * n) for n in range(15))
    rows = [
        LatentRow(f"trial-name-{n}", str(n), n, firing=firing, promoted=pairs, suppressed=pairs)
        for n, firing in enumerate(collector.result())
    ]
    assert all(len(row.firing.top) == 12 and len(row.firing.quantiles) == 4 for row in rows if row.firing)
    table = LatentTable("size", False, tuple(rows), TokenText(load_tokenizer("tiny")))
    assert 3e6 < write_latents(table, tmp_path / "x.html").stat().st_size < 20e6


# --- what is missing ---


def test_what_is_gone_is_said_and_the_rest_is_given(small_output: Path, table: LatentTable, tmp_path: Path) -> None:
    shutil.copytree(small_output.parent.parent, tmp_path / "output")
    sweep = tmp_path / "output" / "sweeps" / small_output.name
    shutil.rmtree(tmp_path / "output" / "stores")
    without = sweep_latents(sweep)
    (line,) = without.lacks
    assert line.startswith("No snippets and histograms: no store of ") and "--store" in line
    assert [row.promoted for row in without.rows] == [row.promoted for row in table.rows]
    assert all(row.firing is None and row.frequency is not None for row in without.rows)
    (section,) = latent_sections(sweep)
    assert "No snippets and histograms" in section.body

    shutil.rmtree(last_sae(sweep, "k4-tau0.6-seed1"))
    half = sweep_latents(sweep)
    assert any(line.startswith("k4-tau0.6-seed1: its SAE cannot be read") for line in half.lacks)
    assert [row.name for row in half.rows if row.seed == 1] == [
        r.name for r in table.rows if r.seed == 1 and r.distilled
    ]
    assert all(row.nearest for row in half.rows)


def test_a_store_is_found_by_what_is_noted_with_the_sae(small_output: Path, tmp_path: Path) -> None:
    shutil.copytree(small_output.parent.parent, tmp_path / "output")
    stores, sae = tmp_path / "output" / "stores", last_sae(small_output, "k4-tau0.6-seed0")
    sae = tmp_path / "output" / sae.relative_to(small_output.parent.parent)
    (real,) = stores.iterdir()
    other = stores / ("b" * 24)
    shutil.copytree(real, other)
    assert "several stores" in sae_latents(str(sae), [0]).lacks[0]
    assert sae_latents(str(sae), [0], store="bbbbbb").lacks == ()
    assert sae_latents(str(sae), [0], store=str(real)).lacks == ()
    config = json.loads((sae / "config.json").read_text())
    config["extra"]["store"] = other.name
    (sae / "config.json").write_text(json.dumps(config))
    assert sae_latents(str(sae), [0]).lacks == ()
    config["extra"]["model"] = "no-one/has-this"
    (sae / "config.json").write_text(json.dumps(config))
    found = sae_latents(str(sae), [0], wanted=Wanted(local_only=True))
    assert found.text is None and found.lacks[0].startswith("No text of tokens: model.name 'no-one/has-this'")
    assert found.rows[0].firing is not None
    assert payload(found)["rows"][0]["firing"]["top"], "tokens by their numbers"


def test_an_sae_in_a_bucket_is_read_from_there(small_output: Path) -> None:
    """fsspec's files in memory: like a bucket, they are on no disk."""
    output, sae = small_output.parent.parent, last_sae(small_output, "k4-tau0.6-seed0")
    for path in (p for p in output.rglob("*") if p.is_file()):
        where = Folder("memory://latents") / str(path.parent.relative_to(output))
        where.write(path.name, [path.read_bytes()])
    here, there = sae_latents(str(sae), [0, 50]), sae_latents(f"memory://latents/{sae.relative_to(output)}", [0, 50])
    assert there.lacks == ()
    assert payload(there) == payload(here)


def test_an_sae_that_diverged_has_no_snippets(small_output: Path, tmp_path: Path) -> None:
    sae = load_sae(last_sae(small_output, "k4-tau0.6-seed0"))
    sae.W_enc[3] = torch.nan
    save_sae(sae, tmp_path / "sae", ABOUT)
    (store,) = (small_output.parent.parent / "stores").iterdir()
    found = sae_latents(str(tmp_path / "sae"), [3], store=str(store))
    assert found.lacks == ("No snippets and histograms: weights of the SAE are not finite: its training diverged",)
    assert latents_section(found).body


def test_few_pages_go_to_each_trial_alike(small_output: Path, table: LatentTable) -> None:
    few = sweep_latents(small_output, most=4)
    with_page = [row for row in few.rows if row.firing is not None]
    assert len(few.rows) == len(table.rows) and [row.seed for row in with_page] == [0, 0, 1, 1]
    for seed in (0, 1):
        own = [row for row in table.rows if row.seed == seed]
        best = sorted(own, key=lambda row: not row.distilled)[:2]  # C* first, by score
        assert {row.name for row in with_page if row.seed == seed} == {row.name for row in best}
    assert f"4 of {len(table.rows)} latents have a page" in few.lacks[0]


# --- the command ---


def test_the_command_writes_a_page(small_output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.html"
    sae = last_sae(small_output, "k4-tau0.6-seed0")
    assert main(["latents", str(sae), "--latents", "0,95,3-4", "--out", str(out), "--top", "3"]) == 0
    assert "4 latents, 4 with snippets" in capsys.readouterr().out
    data = out.read_text().split('id="latents-data">')[1].split("</script>")[0]
    rows = json.loads(data)["rows"]
    n_core = load_sae(sae).n_core
    assert [(row["name"], row["part"]) for row in rows] == [
        ("0", "core"),
        ("95", "group 1"),
        ("3", "core" if n_core > 3 else "group 0"),
        ("4", "core" if n_core > 4 else "group 0"),
    ]
    assert len(rows[0]["firing"]["top"]) == 3

    assert main(["latents", str(small_output), "--trial", "k4-tau0.6-seed1", "--cycle", "0", "--out", str(out)]) == 0
    assert '"trial":"k4-tau0.6-seed1"' in out.read_text() and '"trial":"k4-tau0.6-seed0"' not in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SWEEP", "--core"], "--core is given"),
        (["SWEEP", "--trial", "k9"], "--trial is 'k9'; finished are k4-tau0.6-seed0, k4-tau0.6-seed1"),
        (["SWEEP", "--cycle", "7"], "--cycle is 7; k4-tau0.6-seed0 has the cycles 0..2"),
        (["SWEEP", "--most", "0"], "--most is 0"),
        (["SWEEP", "--top", "1000"], "top is 1000; it must be in 0..100"),
        (["SWEEP", "--out", "no/such/folder/x.html"], "--out is 'no/such/folder/x.html'; there is no folder"),
        (["SAE", "--latents", "1,96"], "latent 96: the SAE has the latents 0..95"),
        (["SAE", "--latents", "1;2"], "--latents is '1;2'"),
        (["SAE", "--store", "cccccc"], "no store of"),
        (["nowhere"], "config.json: no such file"),
    ],
)
def test_a_wrong_argument_is_said_in_one_line(
    small_output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {"SWEEP": str(small_output), "SAE": str(last_sae(small_output, "k4-tau0.6-seed0"))}
    out = tmp_path / "a.html"
    code = main(["latents", "--out", str(out), *(places.get(word, word) for word in arguments)])
    captured = capsys.readouterr()
    if "--store" in arguments:  # the pages are made without what the store would give
        assert code == 0 and "note: No snippets" in captured.out and message in captured.out
    else:
        assert code == 2 and message in captured.err and captured.err.count("\n") == 1 and not out.exists()


def test_an_interrupt_leaves_nothing(
    small_output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dmsae_ray.cli.console.Screen.bar", interrupt)
    assert main(["latents", str(small_output), "--out", str(tmp_path / "a.html")]) == 130
    assert list(tmp_path.iterdir()) == [] and "nothing was written" in capsys.readouterr().err


def test_names_of_latents() -> None:
    assert numbers("0, 5,10-12") == [0, 5, 10, 11, 12]
    for wrong in ("", "a", "-1", "5-", "0-999999999"):
        with pytest.raises(ConfigError, match="--latents is"):
            numbers(wrong)


def test_a_sweep_without_a_finished_trial_is_said(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    with pytest.raises(DataError, match="no finished trial"):
        sweep_latents(tmp_path)


def test_the_section_of_an_empty_table_is_whole() -> None:
    section = latents_section(LatentTable("nothing", True, (), None, lacks=("<b>nothing</b>",)))
    assert "&lt;b&gt;nothing&lt;/b&gt;" in section.body
