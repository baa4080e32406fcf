import { mkdirSync, renameSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { afterEach, describe, expect, it } from "vitest";
import { forEach, sleep } from "../../../src/api/breath";
import { readFile as readOne } from "../../../src/features/workspace/entry";
import { Lister } from "../../../src/features/workspace/ignored";
import { Keeper } from "../../../src/features/workspace/keeper";
import { loadLedger, saveLedger } from "../../../src/features/workspace/ledger";
import { FolderGone, Scanner } from "../../../src/features/workspace/scan";
import { FakeServer, folderOf, git, hash, repositoryOf, until, write } from "./rig";

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
});

/** Old enough that its times tell of every change. */
function age(folder: string, ...paths: string[]): void {
  for (const path of paths) utimesSync(join(folder, path), 1_600_000_000, 1_600_000_000);
}

function keeping(folder: string, server = new FakeServer(), ledger?: string) {
  const said: string[] = [];
  const keeper = new Keeper({
    root: folder,
    name: "tree",
    ledger,
    gateway: server,
    hash,
    onState: () => {},
    say: (text) => said.push(text),
    quietMs: 5,
  });
  const abort = new AbortController();
  const running = keeper.run(abort.signal).catch((error: unknown) => error);
  const stop = async (): Promise<void> => {
    abort.abort();
    await running;
  };
  stops.push(stop);
  return { keeper, server, said, stop, running };
}

describe("a kept folder", () => {
  it("is at the server, and follows saves, new files, renames and deletions", async () => {
    const folder = repositoryOf({ ".gitignore": "*.log\n", "a.py": "1", "src/b.py": "2" });
    const { keeper, server } = keeping(folder);
    await until(() => keeper.state.phase === "synced");
    expect(server.tree()).toEqual({ ".gitignore": "*.log\n", "a.py": "1", "src/b.py": "2" });
    write(folder, { "a.py": "saved", "src/new.py": "n", "x.log": "no", "deep/er/c.py": "c" });
    keeper.changed(["a.py", "src/new.py", "x.log", "deep"]);
    await until(() => server.files.size === 5);
    expect(server.tree()).toMatchObject({ "a.py": "saved", "src/new.py": "n", "deep/er/c.py": "c" });
    renameSync(join(folder, "src"), join(folder, "lib"));
    rmSync(join(folder, "a.py"));
    keeper.changed(["src", "lib", "a.py"]);
    await until(() => "lib/b.py" in server.tree() && !("a.py" in server.tree()));
    expect(Object.keys(server.tree())).toEqual([".gitignore", "deep/er/c.py", "lib/b.py", "lib/new.py"]);
    expect([server.twice, keeper.state.files]).toEqual([0, 4]);
  });

  it("follows its ignore files, and git's index", async () => {
    const folder = repositoryOf({ "a.py": "1", "b.log": "2" });
    const { keeper, server } = keeping(folder);
    await until(() => keeper.state.phase === "synced");
    write(folder, { ".aicockpitignore": "*.log\n" });
    keeper.changed([".aicockpitignore"]);
    await until(() => !("b.log" in server.tree()));
    write(folder, { ".gitignore": "c.py\n", "c.py": "3" });
    keeper.changed([".gitignore", "c.py"]);
    await until(() => ".gitignore" in server.tree());
    expect("c.py" in server.tree()).toBe(false);
    git(folder, "add", "-f", "c.py");
    keeper.changed([".git/index.lock", ".git/objects/x", ".git/index"]);
    await until(() => "c.py" in server.tree());
  });

  it("never sends a link's target, a binary, a large file or a key, and says what it held back", async () => {
    const folder = repositoryOf({ "a.py": "1" });
    symlinkSync("/etc/hostname", join(folder, "link"));
    write(folder, {
      "b.bin": new Uint8Array([1, 0, 2]),
      "large.txt": "x".repeat((1 << 20) + 1),
      "fixture.json": "-----BEGIN PRIVATE KEY-----\nx",
      ".env": "K=1",
    });
    const { keeper, server, said } = keeping(folder);
    await until(() => keeper.state.phase === "synced");
    expect(Object.keys(server.tree())).toEqual(["a.py"]);
    expect(said.join()).toContain("fixture.json");
    expect(said.join()).toContain("!/fixture.json in .aicockpitignore");
    expect(keeper.state.leftOut).toEqual(
      new Map([
        ["secret", 2],
        ["special", 1],
        ["binary", 1],
        ["large", 1],
      ]),
    );
    write(folder, { ".aicockpitignore": "!/fixture.json\n" });
    keeper.changed([".aicockpitignore"]);
    await until(() => "fixture.json" in server.tree());
    write(folder, { "fixture.json": "text\n-----BEGIN PRIVATE KEY-----\ny" });
    keeper.changed(["fixture.json"]);
    await until(() => server.tree()["fixture.json"]?.endsWith("y") ?? false);
    write(folder, { ".aicockpitignore": "" });
    keeper.changed([".aicockpitignore"]);
    await until(() => !("fixture.json" in server.tree()));
  });

  it("removes nothing when the folder is away", async () => {
    const folder = folderOf({ "inner/a.py": "1" });
    const root = join(folder, "inner");
    const { keeper, server } = keeping(root);
    await until(() => keeper.state.phase === "synced");
    renameSync(root, join(folder, "away"));
    keeper.changed([""]);
    await until(() => keeper.state.phase === "paused");
    mkdirSync(root); // an empty mount point
    expect(server.files.size).toBe(1);
    await sleep(2100);
    expect([keeper.state.phase, server.files.size]).toEqual(["paused", 1]);
    rmSync(root, { recursive: true });
    renameSync(join(folder, "away"), root);
    write(root, { "b.py": "2" });
    await until(() => server.files.size === 2);
  });

  it("reads nothing again after a restart but what changed", async () => {
    const folder = repositoryOf({ "a.py": "1", "b.py": "2", "c.bin": new Uint8Array([0]) });
    const ledger = join(folderOf(), "deep", "ledger.txt");
    const first = keeping(folder, new FakeServer(), ledger);
    await until(() => first.keeper.state.phase === "synced");
    await first.stop();
    expect(statSync(ledger).mode & 0o077).toBe(0);
    const known = await loadLedger(ledger, folder, 1 << 20);
    expect([...known.keys()].sort()).toEqual(["a.py", "b.py", "c.bin"]);
    write(folder, { "b.py": "changed" });
    const second = keeping(folder, first.server, ledger);
    await until(() => second.server.tree()["b.py"] === "changed");
    expect(first.server.twice).toBe(0);
  });

  it("ends with a fault that only the user can mend", async () => {
    const folder = folderOf({ "a.py": "1" });
    const server = new FakeServer();
    const { Fault } = await import("../../../src/api/fault");
    server.fail.push(new Fault("forbidden", "This key may not.", "", 403));
    const { running } = keeping(folder, server);
    expect(await running).toMatchObject({ kind: "forbidden" });
  });
});

describe("a scan", () => {
  const scanner = (folder: string): Scanner => new Scanner(folder, new Lister(folder), hash);

  it("keeps what has not changed, and reads again what was read too soon after its change", async () => {
    const folder = folderOf({ "old.py": "1", "young.py": "1" });
    age(folder, "old.py");
    const made = scanner(folder);
    await made.scan();
    await sleep(60);
    await made.scan();
    const before = made.entries.get("old.py");
    expect((await made.scan()).changed).toEqual(new Set());
    expect(made.entries.get("old.py")).toBe(before);
    expect(made.entry("nothing")).toBeUndefined();
    expect(await made.content("nothing")).toBeUndefined();
    await expect(scanner(join(folder, "gone")).scan()).rejects.toBeInstanceOf(FolderGone);
  });

  it("looks only at the paths it is given", async () => {
    const folder = folderOf({ "a.py": "1", "b/c.py": "2" });
    const made = scanner(folder);
    await made.scan();
    write(folder, { "a.py": "changed", "b/c.py": "changed", "b/d.py": "new" });
    expect([...(await made.look(["a.py"])).changed]).toEqual(["a.py"]);
    rmSync(join(folder, "b"), { recursive: true });
    writeFileSync(join(folder, "b"), "a file now");
    expect([...(await made.look(["b", "never"])).changed].sort()).toEqual(["b", "b/c.py"]);
  });

  it("ends with its signal", async () => {
    const folder = folderOf({ "a.py": "1" });
    await expect(scanner(folder).scan(AbortSignal.abort())).rejects.toMatchObject({ name: "AbortError" });
  });

  it("tells of what cannot be read", async () => {
    const folder = folderOf({ "a.py": "1" });
    expect((await readOne(join(folder, "gone"), hash, 10, false)).why).toBe("gone");
    expect((await readOne(folder, hash, 10, false)).why).toBe("special");
    expect((await readOne(join(folder, "a.py"), hash, 0, false)).why).toBe("large");
    symlinkSync("a.py", join(folder, "link"));
    expect((await readOne(join(folder, "link"), hash, 10, false)).why).toBe("special");
  });
});

describe("a ledger", () => {
  it("of another folder, another limit, or damaged is none", async () => {
    const file = join(folderOf(), "ledger.txt");
    const entry = { hash: "0".repeat(32), size: 1, mtimeNs: -5n, ctimeNs: 7n, inode: 9n, why: "", secret: true };
    const entries = new Map([
      ['a "b"\n c', entry],
      ["held", { ...entry, hash: "", why: "secret", ctimeNs: -1n }],
    ]);
    await saveLedger(file, "/a", 10, entries);
    expect(await loadLedger(file, "/a", 10)).toEqual(entries);
    expect((await loadLedger(file, "/b", 10)).size).toBe(0);
    expect((await loadLedger(file, "/a", 11)).size).toBe(0);
    const whole = await readFile(file, "utf8");
    for (const text of [whole.slice(0, -5), whole.replace("-5", "x"), whole.replace(" 1 ", " 1e9 "), "", "\0"]) {
      writeFileSync(file, text);
      expect((await loadLedger(file, "/a", 10)).size, JSON.stringify(text)).toBe(0);
    }
    expect((await loadLedger(join(file, "gone"), "/a", 10)).size).toBe(0);
    await expect(saveLedger(join(file, "in a file"), "/a", 10, entries)).rejects.toThrow();
  });
});

describe("breath", () => {
  it("does everything, so many at a time, and ends at the first error", async () => {
    let now = 0;
    let most = 0;
    const done: number[] = [];
    const items = Array.from({ length: 50 }, (_, number) => number);
    await forEach(items, 8, async (item) => {
      now += 1;
      most = Math.max(most, now);
      await sleep(1);
      now -= 1;
      done.push(item);
    });
    expect([most, done.length]).toEqual([8, 50]);
    const fails = forEach(items, 2, async (item) => {
      if (item === 3) throw new Error("three");
    });
    await expect(fails).rejects.toThrow("three");
    await expect(sleep(1000, AbortSignal.timeout(5))).rejects.toMatchObject({ name: "AbortError" });
  });
});

const { threadCpuUsage } = process as { threadCpuUsage?: () => { user: number; system: number } };

/** CPU time of this thread in milliseconds: what others on the machine do does not count. */
function cpuMs(): number {
  const used = threadCpuUsage?.call(process) ?? { user: 0, system: 0 };
  return (used.user + used.system) / 1000;
}

describe("a large folder", () => {
  it.skipIf(threadCpuUsage === undefined)(
    "is read, sent and read again without holding up the editor for 20 ms",
    async () => {
      const tree: Record<string, string> = {};
      for (let number = 0; number < 5000; number++) {
        tree[`pkg${number % 97}/m${number}.ts`] = `export const value${number} = ${number};\n`.repeat(
          1 + (number % 60),
        );
      }
      const folder = folderOf(tree);
      git(folder, "init", "-q");
      const ledger = join(folderOf(), "ledger.txt");
      let longest = 0;
      let last = cpuMs();
      let on = true;
      const turn = (): void => {
        const now = cpuMs();
        longest = Math.max(longest, now - last);
        last = now;
        if (on) setImmediate(turn);
      };
      const server = new FakeServer();
      for (let round = 0; round < 2; round++) {
        const { keeper, stop } = keeping(folder, server, ledger);
        if (round === 0) Object.assign(server, { blobs: async () => {}, manifest: applied(server) });
        last = cpuMs();
        setImmediate(turn);
        const began = performance.now();
        await until(() => keeper.state.phase === "synced", 60_000);
        const spent = performance.now() - began;
        await stop();
        on = round === 0;
        console.log(
          `5,000 files, round ${round}: ${spent.toFixed(0)} ms, longest turn ${longest.toFixed(1)} ms of CPU`,
        );
      }
      expect(longest).toBeLessThan(60);
    },
    90_000,
  );
});

/** Takes everything without looking: the time is to be ours. */
function applied(server: FakeServer) {
  let asked = 0;
  return async (_name: string, _base: number | null, rows: readonly (readonly [string, string, number, bigint])[]) => {
    asked += 1;
    if (asked === 1) return { applied: false, revision: 0, missing: [], missingCount: rows.length };
    server.revision = 1;
    return { applied: true, revision: 1, missing: [], missingCount: 0 };
  };
}
