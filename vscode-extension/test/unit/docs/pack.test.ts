import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { isArchive, isDocument, plan, Tar } from "../../../src/features/docs/pack";
import { type FolderReader, type Listed, walk } from "../../../src/features/docs/walk";
import { shownBytes } from "../../../src/features/figures";

const quiet = new AbortController().signal;
const encode = (text: string) => new TextEncoder().encode(text);

test("documents are told from files for tools", () => {
  for (const path of ["a.md", "b/INDEX.HTML", "c.rst", "notes.txt", "x.mdx"]) expect(isDocument(path), path).toBe(true);
  for (const path of ["a.py", "README", ".hidden.md", "requirements.txt", "b/CMakeLists.txt", "genindex.html", "md"])
    expect(isDocument(path), path).toBe(false);
  for (const path of ["a.zip", "a.tar.gz", "A.TGZ", "a.tar"]) expect(isArchive(path), path).toBe(true);
  expect(isArchive("a.gz.md")).toBe(false);
});

test("a plan takes documents by their path until a limit is reached", () => {
  const entries = [
    { path: "b.md", size: 40 },
    { path: "a.md", size: 40 },
    { path: "node_modules/x/readme.md", size: 1 },
    { path: ".git/x.md", size: 1 },
    { path: "big.md", size: 101 },
    { path: "c.py", size: 1 },
    { path: "d.md", size: 40 },
    { path: "e.md", size: 1 },
  ];
  const found = plan(entries, { files: 3, file: 100, bytes: 100 });
  expect(found.chosen.map(({ path }) => path)).toEqual(["a.md", "b.md", "e.md"]);
  expect(found.bytes).toBe(81);
  expect(found.leftOut).toEqual(["big.md: larger than 100 bytes", "d.md: more than 100 bytes in all"]);
  const many = Array.from({ length: 60 }, (_, index) => ({ path: `${index}.md`, size: 1 }));
  const few = plan(many, { files: 10, file: 100, bytes: 100 });
  expect(few.chosen).toHaveLength(10);
  expect(few.leftOut).toHaveLength(21);
  expect(few.leftOut.at(-1)).toBe("and 30 more files");
});

test("the archive is what tar itself reads, long and foreign names too", async () => {
  const files = new Map([
    ["guide/a.md", "# A\n"],
    ["guide/empty.md", ""],
    [`${"folder/".repeat(20)}deep.md`, "deep"],
    [`${"ordner-ü/".repeat(12)}größe.md`, "ü".repeat(700)],
    ["exact.md", "x".repeat(512)],
  ]);
  const tar = new Tar();
  for (const [path, text] of files) tar.add(path, encode(text));
  const packed = await tar.finish();
  const read = (...more: string[]) =>
    execFileSync("tar", ["-xzO", "-f", "-", ...more], {
      input: packed,
      env: { ...process.env, LC_ALL: "C.UTF-8" },
    }).toString();
  for (const [path, text] of files) expect(read(path), path).toBe(text);
});

test("a folder is packed the same twice", async () => {
  const pack = (): Promise<Uint8Array> => {
    const tar = new Tar();
    tar.add("a.md", encode("# A"));
    return tar.finish();
  };
  expect(Buffer.from(await pack()).equals(Buffer.from(await pack()))).toBe(true);
});

function folder(files: Readonly<Record<string, number>>, links: readonly string[] = []): FolderReader {
  return {
    async list(path) {
      const inside = new Map<string, Listed>();
      const start = path === "" ? "" : `${path}/`;
      for (const file of [...Object.keys(files), ...links]) {
        if (!file.startsWith(start)) continue;
        const [name = "", ...rest] = file.slice(start.length).split("/");
        inside.set(name, { name, kind: rest.length > 0 ? "folder" : links.includes(file) ? "other" : "file" });
      }
      if (path === "forbidden") throw new Error("EACCES");
      return [...inside.values()];
    },
    async size(path) {
      return files[path];
    },
  };
}

test("a folder is walked without links, hidden folders and what may not be read", async () => {
  const reader = folder(
    { "a.md": 1, "x/y/b.html": 2, ".git/c.md": 3, "node_modules/d.md": 4, "e.py": 5, "forbidden/f.md": 6 },
    ["link.md"],
  );
  const found = await walk(reader, quiet);
  expect(found.entries).toEqual([
    { path: "a.md", size: 1 },
    { path: "x/y/b.html", size: 2 },
  ]);
  expect(found.cut).toBeUndefined();
});

test("a walk ends at its limits and when it is aborted", async () => {
  const reader = folder({ "1/2/3/4/deep.md": 1, "a.md": 1, "b.md": 1, "c/d.md": 1 });
  expect((await walk(reader, quiet, { folders: 99, files: 99, depth: 2 })).cut).toContain("2 deep");
  expect((await walk(reader, quiet, { folders: 99, files: 1, depth: 9 })).cut).toContain("first 1 files");
  expect((await walk(reader, quiet, { folders: 2, files: 99, depth: 9 })).cut).toContain("first 2 folders");
  await expect(walk(reader, AbortSignal.abort())).rejects.toThrow();
  const locked: FolderReader = { list: () => Promise.reject(new Error("EACCES")), size: async () => 1 };
  await expect(walk(locked, quiet)).rejects.toThrow("EACCES");
});

test("sizes are told to people", () => {
  expect([999, 1000, 12_345, 3_400_000, 64_000_000].map(shownBytes)).toEqual([
    "999 bytes",
    "1.0 kB",
    "12 kB",
    "3.4 MB",
    "64 MB",
  ]);
});
