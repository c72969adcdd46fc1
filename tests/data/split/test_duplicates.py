"""Near duplicates: what the hash and the thumbnail say of copies, and links against a comparison of every pair."""

import io

import imagehash
import numpy as np
import pytest
from PIL import Image

from pikavae.data.pictures import looks as looks_module
from pikavae.data.pictures.looks import perceptual_hash, thumbnail
from pikavae.data.split import duplicates
from pikavae.data.split.duplicates import components, equal_pairs, near_pairs
from pikavae.data.sprites.draw import draw_sprite
from tests.support import places

EMOJI = places.EMOJI / "validation.parquet"


def sprites(count, size=64):
    return [np.asarray(draw_sprite(0, i, size).image) for i in range(count)]


def emoji(count):
    if not EMOJI.is_file():
        return []
    import pyarrow.parquet as pq

    rows = pq.read_table(EMOJI).column("image").to_pylist()[:count]
    return [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in rows]


@pytest.fixture(scope="module")
def pictures():
    return sprites(60) + emoji(40)


def as_jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def resized(pixels):
    image = Image.fromarray(pixels)
    smaller = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.BILINEAR)
    return np.asarray(smaller.resize(image.size, Image.Resampling.BILINEAR))


def brighter(pixels):
    return np.rint(np.minimum(pixels * 1.03, 255)).astype(np.uint8)


def darker(pixels):
    return np.rint(pixels * 0.97).astype(np.uint8)


def looks(pictures):
    hashes = np.array([perceptual_hash(Image.fromarray(pixels)) for pixels in pictures], np.uint64)
    return hashes, np.stack([thumbnail(Image.fromarray(pixels)) for pixels in pictures])


def mean_difference(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


def every_pair(hashes, thumbnails, max_distance):
    """All pairs of near duplicates, one comparison after another."""
    return [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= max_distance
        and mean_difference(thumbnails[i], thumbnails[j]) <= duplicates.MAX_THUMBNAIL_DIFFERENCE
    ]


def reachable(count, pairs):
    """The smallest index that each item reaches, by breadth-first search."""
    neighbours = {i: set() for i in range(count)}
    for i, j in pairs:
        neighbours[i].add(j)
        neighbours[j].add(i)
    smallest: list[int | None] = [None] * count
    for start in range(count):
        queue = [start] if smallest[start] is None else []
        while queue:
            node = queue.pop()
            if smallest[node] is None:
                smallest[node] = start
                queue += neighbours[node]
    return smallest


def touching(pairs, kinds):
    """(picture, kind of another) for every pair across kinds."""
    both = [*pairs, *((j, i) for i, j in pairs)]
    return {(i, int(kinds[j])) for i, j in both if kinds[i] != kinds[j]}


def crowded_looks(seed, count, flips=2):
    """Hashes some flipped bits from a few centres, thumbnails about as far apart as the limit, many equal ones."""
    generator = np.random.default_rng(seed)
    hashes = generator.choice(generator.integers(0, 2**64, 4, dtype=np.uint64), count)
    for _ in range(flips):
        flipped = np.uint64(1) << generator.integers(0, 64, count, dtype=np.uint64)
        hashes ^= flipped * generator.integers(0, 2, count, dtype=np.uint64)
    thumbnails = generator.integers(0, 256, (4, 8, 8, 3))[generator.integers(0, 4, count)]
    thumbnails += generator.integers(-9, 10, (count, 1, 1, 1))
    thumbnails += generator.integers(-2, 3, (count, 8, 8, 3)) * generator.integers(0, 2, (count, 1, 1, 1))
    return hashes, np.clip(thumbnails, 0, 255).astype(np.uint8)


def test_the_hash_is_that_of_imagehash(pictures):
    for pixels in pictures[::7]:
        expected = int(str(imagehash.phash(Image.fromarray(pixels))), 16)
        assert perceptual_hash(Image.fromarray(pixels)) == expected
        assert type(perceptual_hash(Image.fromarray(pixels))) is int


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("noise", [0, 3])
def test_blank_pictures_share_a_hash_whatever_their_noise(level, noise):
    generator = np.random.default_rng(level)
    pixels = np.clip(level + generator.integers(-noise, noise + 1, (64, 48, 3)), 0, 255).astype(np.uint8)
    assert perceptual_hash(Image.fromarray(pixels)) == 0


def test_a_faint_picture_is_not_blank():
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[:, 32:] += looks_module.FLAT_RANGE + 1
    assert perceptual_hash(Image.fromarray(pixels)) != 0


def test_a_thumbnail_holds_area_averages():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    expected = pixels.reshape(8, 8, 8, 4, 3).mean(axis=(1, 3))
    assert thumbnail(Image.fromarray(pixels)).dtype == np.uint8
    assert thumbnail(Image.fromarray(pixels)).shape == (8, 8, 3)
    assert np.abs(thumbnail(Image.fromarray(pixels)) - expected).max() <= 1  # Pillow rounds twice


@pytest.mark.parametrize("copy", [as_jpeg, resized, brighter, darker])
def test_copies_are_found(pictures, copy):
    found = 0
    for pixels in pictures:
        hashes, thumbnails = looks([pixels, copy(pixels)])
        pairs = near_pairs(hashes, thumbnails, 4)
        found += len(pairs.first)
    assert found >= 0.98 * len(pictures)


def test_different_sprites_are_no_duplicates():
    hashes, thumbnails = looks(sprites(300))
    assert len(near_pairs(hashes, thumbnails, 8).first) == 0


def test_equal_structure_in_other_colours_is_no_duplicate():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 8:40] = (200, 0, 0)
    recoloured = np.zeros((64, 64, 3), np.uint8)
    recoloured[16:48, 8:40] = (0, 102, 0)
    hashes, thumbnails = looks([pixels, recoloured, pixels])
    assert (int(hashes[0]) ^ int(hashes[1])).bit_count() <= 4
    pairs = near_pairs(hashes, thumbnails, 4)
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.distance.tolist()) == ([0], [2], [0])


@pytest.mark.parametrize(("bits", "linked"), [(4, True), (5, False)])
def test_the_distance_is_inclusive(bits, linked):
    hashes = np.array([0, sum(1 << 13 * i for i in range(bits))], np.uint64)  # a bit in each band
    pairs = near_pairs(hashes, np.zeros((2, 8, 8, 3), np.uint8), 4)
    assert pairs.distance.tolist() == [bits] * linked


@pytest.mark.parametrize(("extra", "linked"), [(0, True), (1, False)])
def test_the_thumbnails_difference_is_inclusive(extra, linked):
    thumbnails = np.zeros((2, 8, 8, 3), np.uint8)
    thumbnails[1] = duplicates.MAX_THUMBNAIL_DIFFERENCE
    thumbnails[1, 0, 0, 0] += extra
    assert len(near_pairs(np.zeros(2, np.uint64), thumbnails, 0).first) == linked


@pytest.mark.parametrize("num_kinds", [1, 2, 3])
@pytest.mark.parametrize("pairs_at_once", [1, 50, 1 << 19])
@pytest.mark.parametrize("seed", range(6))
def test_links_say_what_all_pairs_say(monkeypatch, seed, pairs_at_once, num_kinds):
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", pairs_at_once)
    count, max_distance = 60, [0, 1, 4, 7, 11, 16][seed]
    hashes, thumbnails = crowded_looks(seed, count, flips=(max_distance + 1) // 2)
    kinds = np.random.default_rng(seed).integers(0, num_kinds, count)
    expected = every_pair(hashes, thumbnails, max_distance)
    links = near_pairs(hashes, thumbnails, max_distance, kinds)
    pairs = [(min(pair), max(pair)) for pair in zip(links.first.tolist(), links.second.tolist(), strict=True)]
    assert len(expected) > 20
    assert set(pairs) <= set(expected)
    assert links.distance.tolist() == [(int(hashes[i]) ^ int(hashes[j])).bit_count() for i, j in pairs]
    assert reachable(count, pairs) == reachable(count, expected)
    for kind in range(num_kinds):
        own = [[(i, j) for i, j in some if kinds[i] == kinds[j] == kind] for some in (pairs, expected)]
        assert reachable(count, own[0]) == reachable(count, own[1])
    assert touching(pairs, kinds) == touching(expected, kinds)


def test_a_chain_of_alternating_kinds_holds_together():
    """Its middle link gives nobody a first link to another kind, and is the farthest."""
    hashes = np.array([0, 0, 15, 15], np.uint64)
    thumbnails = np.zeros((4, 8, 8, 3), np.uint8) + np.array([0, 8, 16, 24], np.uint8)[:, None, None, None]
    links = near_pairs(hashes, thumbnails, 4, np.array([0, 1, 0, 1]))
    assert not components(4, links.first, links.second).any()


@pytest.mark.parametrize("num_kinds", [1, 3])
def test_many_near_copies_make_few_links(num_kinds):
    generator = np.random.default_rng(0)
    count = 3000  # four million pairs
    hashes = generator.choice(np.array([0, 1, 2], np.uint64), count)
    thumbnails = generator.integers(100, 104, (count, 8, 8, 3), dtype=np.uint8)
    thumbnails[: count // 2] = 100
    links = near_pairs(hashes, thumbnails, 4, generator.integers(0, num_kinds, count))
    assert len(links.first) <= (num_kinds + 1) * count
    assert not components(count, links.first, links.second).any()


def test_the_order_of_pictures_does_not_matter():
    hashes, thumbnails = crowded_looks(2, 80)
    order = np.random.default_rng(0).permutation(80)
    plain, shuffled = near_pairs(hashes, thumbnails, 4), near_pairs(hashes[order], thumbnails[order], 4)
    expected = reachable(80, zip(plain.first, plain.second, strict=True))
    assert reachable(80, zip(order[shuffled.first], order[shuffled.second], strict=True)) == expected


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pictures_have_no_links(count):
    pairs = near_pairs(np.zeros(count, np.uint64), np.zeros((count, 8, 8, 3), np.uint8), 4)
    assert [len(part) for part in pairs] == [0, 0, 0]
    assert components(count, pairs.first, pairs.second).tolist() == [0] * count


@pytest.mark.parametrize("distance", [-1, 17])
def test_a_distance_out_of_range_is_refused(distance):
    with pytest.raises(ValueError, match=f"max_distance {distance}"):
        near_pairs(np.zeros(2, np.uint64), np.zeros((2, 8, 8, 3), np.uint8), distance)


def test_components_are_named_by_their_smallest_index():
    assert components(6, np.array([5, 3]), np.array([1, 5])).tolist() == [0, 1, 2, 1, 4, 1]


@pytest.mark.parametrize("seed", range(5))
def test_components_agree_with_a_search(seed):
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 40, (2, 25))
    expected = reachable(40, zip(first.tolist(), second.tolist(), strict=True))
    assert components(40, first, second).tolist() == expected


@pytest.mark.parametrize("num_kinds", [1, 3])
def test_equal_pairs_say_what_all_equal_pairs_say(num_kinds):
    generator = np.random.default_rng(num_kinds)
    labels, kinds = generator.integers(-5, 15, 70), generator.integers(0, num_kinds, 70)
    first, second = equal_pairs(labels, kinds)
    expected = [(i, j) for i in range(70) for j in range(i) if labels[i] == labels[j]]
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    assert all(labels[i] == labels[j] and i != j for i, j in pairs)
    assert reachable(70, pairs) == reachable(70, expected)
    assert touching(pairs, kinds) == touching(expected, kinds)
    for kind in range(num_kinds):
        own = [[(i, j) for i, j in some if kinds[i] == kinds[j] == kind] for some in (pairs, expected)]
        assert reachable(70, own[0]) == reachable(70, own[1])
