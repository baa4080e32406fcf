"""A site that does everything wrong is read to an end, and what was left out is told."""

from __future__ import annotations

import gzip
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from aicockpit.documents.store import Store
from aicockpit.documents.worker import read_source
from documents_rig import QUICK, Answering, Page, crawled, moved, page, serving, store_in


async def test_pages_below_the_folder_are_read_each_once(tmp_path: Path) -> None:
    pages: dict[str, Answering] = {
        "/guide/": page("Home", "a", "a#part", "a?x=1", "./b/", "b", "/blog/", "https://other.example/", "index.html"),
        "/guide/a": page("A", "/guide/", "b/index.html"),
        "/guide/b/": page("B", "../a", "c.html"),
        "/guide/b": moved("/guide/b/"),
        "/guide/b/c.html": page("C"),
        "/blog/": page("Blog"),
    }
    with serving(pages) as site, store_in(tmp_path) as store:
        found = await crawled(store, site.url + "/guide/")
        assert found.urls() == {"guide/", "guide/a", "guide/b/", "guide/b/c.html"}
    assert found.source.error == ""
    assert found.tally.problems == ()
    assert "/blog/" not in site.asked
    assert site.asked.count("/guide/a") == 1


async def test_what_is_wrong_is_left_out_and_told(tmp_path: Path) -> None:
    pages: dict[str, Answering] = {
        "/": page("Home", "/dead", "/loop", "/away", "/huge", "/paper", "/empty", "/slow", "/self", "/latin", "/good"),
        "/loop": moved("/loop2"),
        "/loop2": moved("/loop"),
        "/self": moved("/self"),
        "/away": moved("https://other.example/x"),
        "/huge": page("Huge", body="word " * 60_000),
        "/paper": Page(b"%PDF-1.4", media="application/pdf"),
        "/empty": Page(b"<html><body><div id=app></div><script src=x.js></script></body></html>"),
        "/slow": page("Slow", wait_s=4.0),
        "/latin": Page("<h1>Größe</h1><p>Die Größe wird hier erklärt.</p>".encode("latin-1")),
        "/good": page("Good"),
    }
    limits = replace(QUICK, page=200_000, tries=1)
    with serving(pages) as site, store_in(tmp_path, limits) as store:
        found = await crawled(store, site.url + "/", limits)
        assert found.urls() == {"", "latin", "good"}
        titles = {row[0] for row in store.db.rows("SELECT title FROM chunks")}
        assert "Größe" in titles
    told = {one.removeprefix(site.url).partition(": ")[0]: one.partition(": ")[2] for one in found.tally.problems}
    assert told["/dead"] == "answered 404"
    assert told["/loop"] == told["/self"] == "it leads to itself"
    assert "another site" in told["/away"]
    assert "larger than 200000 bytes" in told["/huge"]
    assert "application/pdf" in told["/paper"]
    assert "JavaScript" in told["/empty"]
    assert "no answer" in told["/slow"] or "no complete answer" in told["/slow"]
    assert len(told) == 8


async def test_a_calendar_without_end_ends_at_the_limit_of_pages(tmp_path: Path) -> None:
    def day(path: str) -> Page:
        number = int(path.rpartition("/")[2] or 0) if path.startswith("/day/") else 0
        return (
            page(f"Day {number}", f"/day/{number + 1}", f"/day/{number + 2}")
            if path[:5] == "/day/"
            else Page(status=404)
        )

    limits = replace(QUICK, pages=12, depth=1000)
    with serving({"/": page("Home", "/day/1")}, otherwise=day) as site, store_in(tmp_path, limits) as store:
        found = await crawled(store, site.url + "/", limits)
    assert found.tally.done == 12
    assert "12 pages, the limit" in found.tally.problems[0]
    assert "known were not read" in found.tally.problems[1]


async def test_depth_bytes_and_time_end_it_too(tmp_path: Path) -> None:
    chain: dict[str, Answering] = {f"/{n}": page(f"P{n}", f"/{n + 1}", body="x" * 5000 + str(n)) for n in range(40)}
    with serving({"/": page("Home", "/0"), **chain}) as site:
        for name, value in (("depth", 3), ("bytes", 30_000)):
            limits = replace(QUICK, **{name: value})
            with store_in(tmp_path / name, limits) as store:
                found = await crawled(store, site.url + "/", limits)
            assert 3 <= found.tally.done <= 7, name
    slow: dict[str, Answering] = {f"/{n}": page(f"P{n}", f"/{n + 1}", wait_s=0.2) for n in range(40)}
    limits = replace(QUICK, time_s=1.0)
    with serving({"/": page("Home", "/0"), **slow}) as site, store_in(tmp_path, limits) as store:
        began = time.monotonic()
        found = await crawled(store, site.url + "/", limits)
    assert time.monotonic() - began < 6
    assert found.tally.done >= 2
    assert "1 s, the limit" in found.tally.problems[0]


async def test_a_site_that_asks_for_patience_gets_it(tmp_path: Path) -> None:
    def busy(number: int) -> Page:
        return Page(status=429, headers=(("retry-after", "1"),)) if number == 1 else page("Busy")

    def shaky(number: int) -> Page:
        return Page(status=503) if number < 3 else page("Shaky")

    pages: dict[str, Answering] = {"/": page("Home", "/busy", "/shaky", "/broken"), "/busy": busy, "/shaky": shaky}
    pages["/broken"] = Page(status=500)
    with serving(pages) as site, store_in(tmp_path) as store:
        began = time.monotonic()
        found = await crawled(store, site.url + "/")
        assert found.urls() == {"", "busy", "shaky"}
    assert time.monotonic() - began >= 1.0
    assert site.asked.count("/broken") == QUICK.tries
    assert found.tally.problems == (f"{site.url}/broken: answered 500, 4 times",)


async def test_a_site_that_goes_away_leaves_what_was_read(tmp_path: Path) -> None:
    links = [f"/{n}" for n in range(60)]
    pages: dict[str, Answering] = {"/": page("Home", *links), **{link: Page(status=502) for link in links}}
    limits = replace(QUICK, failures=10, tries=2)
    with serving(pages) as site, store_in(tmp_path, limits) as store:
        found = await crawled(store, site.url + "/", limits)
    assert found.tally.done == 1
    assert "no longer answers" in found.tally.problems[0]
    assert len(site.asked) < 40


async def test_robots_txt_is_obeyed(tmp_path: Path) -> None:
    pages: dict[str, Answering] = {
        "/robots.txt": Page(b"User-agent: *\nDisallow: /private\nDisallow: /*.txt$", media="text/plain"),
        "/": page("Home", "/private/x", "/open", "/notes.txt"),
        "/open": page("Open"),
        "/private/x": page("Private"),
        "/notes.txt": Page(b"Some notes.", media="text/plain"),
    }
    with serving(pages) as site, store_in(tmp_path) as store:
        found = await crawled(store, site.url + "/")
        assert found.urls() == {"", "open"}
    assert not {"/private/x", "/notes.txt"} & set(site.asked)
    assert found.tally.problems[0].endswith("robots.txt does not allow it")


async def test_a_site_that_forbids_it_is_not_asked_for_a_page(tmp_path: Path) -> None:
    for answer in (Page(b"User-agent: *\nDisallow: /", media="text/plain"), Page(status=503)):
        with (
            serving({"/robots.txt": answer, "/": page("Home")}) as site,
            store_in(tmp_path / str(answer.status)) as store,
        ):
            found = await crawled(store, site.url + "/")
        assert "robots.txt" in found.source.error
        assert "archive" in found.source.error
        assert set(site.asked) == {"/robots.txt"}


async def test_sitemaps_find_what_no_link_leads_to(tmp_path: Path) -> None:
    def urlset(site_url: str, *paths: str) -> bytes:
        return (
            "<urlset>" + "".join(f"<url><loc>{site_url}{path}</loc></url>" for path in paths) + "</urlset>"
        ).encode()

    pages: dict[str, Answering] = {"/docs/": page("Home"), "/docs/alone": page("Alone"), "/blog/x": page("Blog")}
    with serving(pages) as site, store_in(tmp_path) as store:
        pages["/robots.txt"] = Page(f"Sitemap: {site.url}/map.xml".encode(), media="text/plain")
        index = f"<sitemapindex><sitemap><loc>{site.url}/one.xml.gz</loc></sitemap></sitemapindex>"
        pages["/map.xml"] = Page(index.encode(), media="application/xml")
        zipped = gzip.compress(urlset(site.url, "/docs/alone", "/blog/x"))
        pages["/one.xml.gz"] = Page(zipped, media="application/gzip")
        found = await crawled(store, site.url + "/docs/")
        assert found.urls() == {"docs/", "docs/alone"}


async def test_a_text_for_models_is_preferred(tmp_path: Path) -> None:
    whole = "# One\n\n" + "All about one. " * 60 + "\n\n# Two\n\n" + "All about two. " * 60
    pages: dict[str, Answering] = {
        "/": page("Home", "/a"),
        "/a": page("A"),
        "/llms-full.txt": Page(whole.encode(), media="text/plain"),
    }
    with serving(pages) as site, store_in(tmp_path) as store:
        found = await crawled(store, site.url + "/")
        titles = {row[0] for row in store.db.rows("SELECT title FROM chunks")}
    assert titles == {"One", "Two"}
    assert found.tally.done == 2
    assert "/a" not in site.asked


async def test_a_list_for_models_names_the_pages(tmp_path: Path) -> None:
    told = (
        "# Site\n- [One](/one.md)\n- [Two](/two.md): second\n- [Three](three.html)\n- [Away](https://other.example/)\n"
    )
    pages: dict[str, Answering] = {
        "/": page("Home", "/unlisted"),
        "/unlisted": page("Unlisted"),
        "/llms.txt": Page(told.encode(), media="text/plain"),
        "/one.md": Page(b"# One\n\nMarkdown as text.", media="text/plain"),
        "/two.md": Page(b"# Two\n\nMarkdown as such.", media="text/markdown"),
        "/three.html": page("Three", "/unlisted"),
    }
    with serving(pages) as site, store_in(tmp_path) as store:
        found = await crawled(store, site.url + "/")
        assert found.urls() == {"one.md", "two.md", "three.html"}


async def test_a_page_that_answers_everything_is_no_text_for_models(tmp_path: Path) -> None:
    with serving({"/": page("Home")}, otherwise=lambda _: page("Home of the app")) as site, store_in(tmp_path) as store:
        found = await crawled(store, site.url + "/")
    assert found.tally.done == 1


async def test_the_first_page_may_move_on_its_own_site(tmp_path: Path) -> None:
    pages: dict[str, Answering] = {
        "/": moved("/en/latest/"),
        "/en/latest/": page("Home", "a", "/en/old/"),
        "/en/latest/a": page("A"),
        "/en/old/": page("Old"),
    }
    with serving(pages) as site, store_in(tmp_path) as store:
        found = await crawled(store, site.url + "/")
        assert found.urls() == {"en/latest/", "en/latest/a"}
        gone = await crawled(store, site.url + "/nothing")
    assert "answered 404; is the address right?" in gone.source.error


async def test_two_pages_of_one_text_are_one(tmp_path: Path) -> None:
    pages: dict[str, Answering] = {"/": page("Home", "/a", "/print"), "/a": page("A"), "/print": page("A")}
    with serving(pages) as site, store_in(tmp_path) as store:
        found = await crawled(store, site.url + "/")
    assert (found.tally.done, found.tally.known, found.tally.problems) == (2, 2, ())


async def test_a_compressed_bomb_ends_at_the_limit_of_a_page(tmp_path: Path) -> None:
    bomb = Page(gzip.compress(b"<p>" + b"a" * 50_000_000), headers=(("content-encoding", "gzip"),))
    with serving({"/": page("Home", "/bomb"), "/bomb": bomb}) as site, store_in(tmp_path) as store:
        found = await crawled(store, site.url + "/")
    assert "larger than" in found.tally.problems[0]


async def test_a_page_that_is_packed_twice_is_never_unpacked(tmp_path: Path) -> None:
    twice = Page(gzip.compress(gzip.compress(b"a" * 50_000_000)), headers=(("content-encoding", "gzip, gzip"),))
    with serving({"/": page("Home", "/twice"), "/twice": twice}) as site, store_in(tmp_path) as store:
        found = await crawled(store, site.url + "/")
    assert found.tally.done == 1
    assert "packed as 'gzip, gzip'" in found.tally.problems[0]


async def test_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    """As after a kill: some pages done, one at which the process ended, others known."""
    names = [f"/{n}" for n in range(6)]
    pages: dict[str, Answering] = {"/": page("Home", *names), **{name: page(f"Page {name}") for name in names}}
    with serving(pages) as site, store_in(tmp_path) as store:
        first = await crawled(store, site.url + "/", replace(QUICK, pages=3))
        at = (first.source.number, first.source.generation)
        deadly = store.waiting(*at)[0]
        store.reading(*at, deadly[0])
        site.asked.clear()
        source = store.find(first.source.id)
        assert source is not None
        await read_source(store, source, QUICK)
        tally = store.tally(source, source.generation)
    assert tally.done == 6
    assert [one for one in tally.problems if "ended the process" in one]
    assert deadly[1].removeprefix(site.url) not in site.asked
    assert len([path for path in site.asked if path in names]) == 3


async def test_an_index_that_is_full_says_so(tmp_path: Path) -> None:
    pages: dict[str, Answering] = {"/": page("Home", "/a", "/b"), "/a": page("A"), "/b": page("B")}
    limits = replace(QUICK, chunks=2, concurrency=1)
    with serving(pages) as site, store_in(tmp_path, limits) as store:
        found = await crawled(store, site.url + "/", limits)
    assert found.tally.chunks == 2
    assert "full" in found.tally.problems[0]


def test_problems_are_bounded(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        source = store.create("key", "x", "https://x.org/", "url", False)
        for number in range(120):
            store.leave(source.number, 1, f"k{number}", f"https://x.org/{number}", "answered 404")
        tally = store.tally(source, 1)
    assert (len(tally.problems), tally.more) == (50, 70)


def test_two_processes_may_open_one_file(tmp_path: Path) -> None:
    opened: list[Any] = [Store(tmp_path / "documents.sqlite") for _ in range(2)]
    source = opened[0].create("key", "x", "https://x.org/", "url", False)
    assert opened[1].find(source.id) == source
    assert (tmp_path / "documents.sqlite").stat().st_mode & 0o777 == 0o600
    for store in opened:
        store.close()
