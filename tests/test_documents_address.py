"""Which addresses belong to a source and which machines may be asked: the door that a hostile page pushes at."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.documents import address, net, site
from aicockpit.documents.values import Limits
from aicockpit.errors import BadRequest
from documents_rig import crawled, moved, page, serving, store_in


@pytest.mark.parametrize(
    ("given", "start", "prefix"),
    [
        ("https://docs.example.org/guide/intro.html#x", "https://docs.example.org/guide/intro.html", "/guide/"),
        ("docs.example.org/guide/", "https://docs.example.org/guide/", "/guide/"),
        ("https://example.org/docs", "https://example.org/docs", "/docs/"),
        ("https://example.org", "https://example.org/", "/"),
        ("HTTP://Example.org:80/a/../b/?q=1", "http://example.org/b/", "/b/"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/", "/"),
        ("http://[::1]:8080/x/", "http://[::1]:8080/x/", "/x/"),
    ],
)
def test_an_address_means_its_folder(given: str, start: str, prefix: str) -> None:
    assert address.check(given) == start
    assert address.site_of(start).prefix == prefix


@pytest.mark.parametrize(
    "bad",
    ["ftp://x.org/", "file:///etc/passwd", "https://me:secret@x.org/", "javascript:alert(1)", "", "https://", "http://x:99999/",
     "http://x.org/a b", "http://x.org/\x00", "gopher://127.0.0.1:6379/_x", "https://x.org/" + "a" * 3000],
)  # fmt: skip
def test_other_addresses_are_refused_in_words(bad: str) -> None:
    with pytest.raises(BadRequest) as caught:
        address.check(bad)
    assert "secret" not in str(caught.value)


def test_links_stay_in_the_folder_and_one_page_has_one_address() -> None:
    home = address.site_of("https://docs.example.org/guide/intro.html")
    base = "https://docs.example.org/guide/intro.html"
    same = [
        "next",
        "./next",
        "next#part",
        "next?page=2",
        "http://docs.example.org/guide/next",
        "//www.docs.example.org/guide/next",
    ]
    assert {home.link(base, one) for one in same} == {"https://docs.example.org/guide/next"}
    for other in (
        "../blog/",
        "https://other.org/guide/x",
        "mailto:a@b.c",
        "pic.png",
        "https://docs.example.org:8443/guide/x",
        "#top",
    ):
        assert home.link(base, other) is None, other
    keys = {address.key(f"https://x.org/a{end}") for end in ("", "/", "/index.html")}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("ip", "user", "admin"),
    [
        ("93.184.216.34", True, True),
        ("2606:4700::1111", True, True),
        ("127.0.0.1", False, True),
        ("10.1.2.3", False, True),
        ("192.168.0.1", False, True),
        ("100.64.0.1", False, True),
        ("::1", False, True),
        ("fd12::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("64:ff9b::7f00:1", False, True),
        ("2002:7f00:1::", False, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("fe80::1", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("::ffff:168.63.129.16", False, False),
        ("192.0.0.192", False, False),
        ("fec0::1", False, True),
        ("::7f00:1", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("255.255.255.255", False, False),
        ("2001:0:53aa::1", False, False),
    ],
)
def test_who_may_reach_which_machine(ip: str, user: bool, admin: bool) -> None:
    found = ipaddress.ip_address(ip)
    assert (address.refusal(found, False) == "") is user
    assert (address.refusal(found, True) == "") is admin


@given(st.integers(0, 2**32 - 1))
def test_no_way_of_writing_a_private_address_makes_it_public(number: int) -> None:
    plain = ipaddress.IPv4Address(number)
    refused = bool(address.refusal(plain, False))
    for written in (
        f"::ffff:{plain}",
        str(ipaddress.IPv6Address((0x64FF9B << 96) | number)),
        str(ipaddress.IPv6Address((0x2002 << 112) | number << 80)),
    ):
        assert bool(address.refusal(ipaddress.ip_address(written), False)) is refused


async def test_a_key_that_is_no_admin_reaches_nothing_inside(tmp_path: Path) -> None:
    with serving({"/": page("Secret")}) as inside, store_in(tmp_path) as store:
        found = await crawled(store, inside.url + "/", private=False)
    assert "this machine's own address" in found.source.error
    assert "--admin" in found.source.error
    assert inside.asked == []


async def test_a_name_that_points_inside_is_refused_and_asked_for_once(tmp_path: Path) -> None:
    asked = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) > 1 else ["127.0.0.1", "10.0.0.7"]

    with serving({"/": page("Secret")}) as inside, store_in(tmp_path) as store:
        found = await crawled(store, f"http://docs.evil.example:{inside.port}/", private=False, look_up=rebinding)
        assert "is not read" in found.source.error
        assert inside.asked == []


async def test_the_connection_goes_to_the_address_that_was_judged(tmp_path: Path) -> None:
    """The name is resolved once; a second answer would lead elsewhere. `Host` still says the name."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]

    async def once(host: str, port: int) -> list[str]:
        return answers.pop(0)

    with serving({"/": page("Home", "/a"), "/a": page("A")}) as inside, store_in(tmp_path) as store:
        found = await crawled(store, f"http://docs.inside.example:{inside.port}/", look_up=once)
    assert found.tally.done == 2
    assert len(answers) == 1


async def test_a_redirect_inside_is_refused(tmp_path: Path) -> None:
    """The first hop is public (by a name that the test resolves), the second is this machine."""

    async def public_then_local(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    with serving({"/secret": page("Secret")}) as inside:
        outside_pages = {"/": moved(f"{inside.url}/secret"), "/robots.txt": moved("http://169.254.169.254/latest/")}
        with serving(dict(outside_pages)) as outside, store_in(tmp_path) as store:
            found = await crawled(store, f"http://docs.example:{outside.port}/", look_up=public_then_local)
            assert "leads to another site" in found.source.error
        assert inside.asked == []


async def test_an_address_that_is_down_does_not_hide_a_good_one(tmp_path: Path) -> None:
    async def two(host: str, port: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]  # nobody listens at the first

    with serving({"/": page("Home")}) as inside, store_in(tmp_path) as store:
        found = await crawled(store, f"http://docs.example:{inside.port}/", look_up=two)
    assert found.tally.done == 1


async def test_cookies_and_credentials_are_never_sent() -> None:
    seen: list[dict[str, str]] = []

    async def note(request: httpx.Request) -> None:
        seen.append(dict(request.headers))

    with serving({"/": page("x", headers=(("set-cookie", "a=b; Path=/"),))}) as inside:
        async with net.opened(Limits(), True) as reader:
            reader._client.event_hooks = {"request": [note]}
            for _ in range(2):
                await reader.get(inside.url + "/", 10_000)
    assert len(seen) == 2
    assert not any({"cookie", "authorization"} & set(headers) for headers in seen)


def test_robots_are_obeyed_by_the_longest_rule_and_a_site_in_trouble_is_left_alone() -> None:
    found = site.rules(
        200, "User-agent: *\nDisallow: /private\nAllow: /private/docs\nCrawl-delay: 60\nSitemap: https://x.org/s.xml"
    )
    assert found.allows("https://x.org/docs")
    assert not found.allows("https://x.org/private/x")
    assert found.allows("https://x.org/private/docs/a")
    assert (found.delay_s, found.sitemaps) == (5.0, ("https://x.org/s.xml",))
    assert site.rules(404, "").allows("https://x.org/private")
    assert not site.rules(503, "").allows("https://x.org/")
    assert not site.rules(200, "User-agent: AiCockpit\nDisallow: /").allows("https://x.org/a")


def test_a_sitemap_is_read_without_believing_its_xml() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "&b;&b;">]><urlset><url><loc> https://x.org/a&amp;b </loc></url><loc>https://x.org/c</loc>'
    assert site.sitemap(bomb, 10_000) == (["https://x.org/a&b", "https://x.org/c"], False)
    assert site.sitemap(b"<sitemapindex><sitemap><loc>https://x.org/s</loc>", 999)[1]


def test_a_whole_text_is_cut_into_its_pages() -> None:
    home = address.site_of("https://x.org/")
    told = "# One\nSource: https://x.org/one\n\ntext\n\n```sh\n# a comment\n```\n\n# Two\n\nmore\n# Three\nSource: https://evil.org/\nx"
    found = site.parts(told, "https://x.org/llms-full.txt", home)
    assert [(where, title) for where, title, _ in found] == [
        ("https://x.org/one", "One"),
        ("https://x.org/llms-full.txt", "Two"),
        ("https://x.org/llms-full.txt", "Three"),
    ]
    assert "# a comment" in found[0][2]
