from hypothesis import given
from hypothesis import strategies as st

from qconvert.text.documents import Document, choose, content_hash

LISTS = st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=700), max_size=40))


def documents(texts: list[str]) -> list[Document]:
    return [Document(text, f"line {n}") for n, text in enumerate(texts, 1)]


@given(LISTS)
def test_a_small_source_is_kept_whole_each_document_once_and_in_order(texts):
    text = choose(documents(texts), 10**6, 0)
    assert [d.text for d in text.documents] == list(dict.fromkeys(t for t in texts if t.strip()))
    assert text.complete
    assert text.repeats + len(text.documents) == sum(1 for t in texts if t.strip())


@given(LISTS, st.integers(1, 300), st.integers(0, 9))
def test_the_budget_is_reached_and_kept_but_for_one_document(texts, budget, seed):
    text = choose(documents(texts), budget, seed)
    sizes = [len(d.text) for d in text.documents]
    whole = sum(len(t) for t in set(texts) if t.strip())
    assert sum(sizes) >= min(budget, whole)
    assert sum(sizes) - max(sizes, default=0) < budget


@given(LISTS, st.integers(1, 300), st.integers(0, 9), st.randoms())
def test_the_choice_does_not_depend_on_the_order(texts, budget, seed, random):
    shuffled = random.sample(texts, len(texts))
    first = choose(documents(texts), budget, seed)
    other = choose(documents(shuffled), budget, seed)
    assert {d.text for d in first.documents} == {d.text for d in other.documents}


def test_documents_come_from_all_over_the_source():
    text = choose(documents([f"document number {n:05}" for n in range(10_000)]), 20_000, 0)
    places = [int(d.where.split()[1]) for d in text.documents]
    tenths = [sum(1 for p in places if p // 1000 == tenth) for tenth in range(10)]
    assert not text.complete
    assert min(tenths) > 50
    assert places == sorted(places)


def test_another_seed_chooses_other_documents():
    texts = documents([f"document number {n:05}" for n in range(1000)])
    first, other = (choose(texts, 2000, seed) for seed in (0, 1))
    assert first.documents != other.documents


def test_a_repeat_is_found_when_the_first_is_long_forgotten():
    texts = [f"document number {n:05}" for n in range(3000)]
    text = choose(documents(texts + texts), 5000, 0)
    kept = [d.text for d in text.documents]
    assert len(set(kept)) == len(kept)
    assert text.repeats >= len(kept)


def test_of_a_long_document_a_part_is_kept_that_breaks_no_word():
    words = [f"word{n}" for n in range(50_000)]
    text = choose([Document(" ".join(words))], 1000, 3)
    kept = text.documents[0].text.split(" ")
    first = words.index(kept[0])
    assert 1 << 13 < len(text.documents[0].text) <= 1 << 14
    assert first > 0
    assert kept == words[first : first + len(kept)]
    assert not text.complete


def test_half_of_a_surrogate_pair_is_no_obstacle():
    assert len(choose(documents(["\ud800 half"]), 100, 0).documents) == 1


def test_the_hash_tells_texts_apart():
    same = content_hash(documents(["a", "b"]))
    assert same == content_hash(documents(["a", "b"]))
    assert len({same, content_hash(documents(["ab"])), content_hash(documents(["b", "a"]))}) == 3
