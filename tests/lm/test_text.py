import ast
import inspect
import json
import subprocess
import sys

from dmsae_ray.lm.text import corpus_sha256, split_documents, stdlib_documents, stdlib_fingerprint


def test_documents_are_help_topics_and_docstrings_each_once() -> None:
    documents = stdlib_documents()
    assert len(documents) == len(set(documents))
    assert sum(map(len, documents)) > 1_000_000
    assert inspect.getdoc(json.dumps) in documents
    assert inspect.getdoc(ast.literal_eval) in documents
    assert any(text.startswith('The "if" statement') for text in documents)
    assert min(map(len, documents)) > 20


def test_tests_and_idle_are_left_out() -> None:
    import idlelib.query  # has docstrings of its own

    own = inspect.getdoc(idlelib.query)
    assert own and own not in stdlib_documents()


def test_another_process_reads_the_same_in_the_same_order() -> None:
    code = (
        "from dmsae_ray.lm.text import *; import sys;"
        "print(corpus_sha256(stdlib_documents()), stdlib_fingerprint(), 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == [corpus_sha256(stdlib_documents()), stdlib_fingerprint(), "False"]


def test_hash_knows_where_a_document_ends() -> None:
    assert corpus_sha256(["ab", "c"]) != corpus_sha256(["a", "bc"])
    assert corpus_sha256(["a", "b"]) != corpus_sha256(["b", "a"])
    assert corpus_sha256([]) != corpus_sha256([""])


def test_split_is_by_document_and_by_its_text_alone() -> None:
    documents = stdlib_documents()
    train, held_out = split_documents(documents)
    assert sorted(train + held_out) == sorted(documents)
    assert 0.03 < len(held_out) / len(documents) < 0.07
    again = split_documents(documents[::-3])[1]
    assert set(again) == set(held_out) & set(documents[::-3])
