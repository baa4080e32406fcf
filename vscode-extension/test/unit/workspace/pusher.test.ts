import { describe, expect, it } from "vitest";
import { sleep } from "../../../src/api/breath";
import { Fault, type FaultKind } from "../../../src/api/fault";
import type { Entry } from "../../../src/features/workspace/entry";
import { complete, difference } from "../../../src/features/workspace/manifest";
import { judge, Pusher, type PushState } from "../../../src/features/workspace/pusher";
import { FakeServer, hash, until } from "./rig";

/** Files in memory. */
class Files {
  readonly entries = new Map<string, Entry>();
  readonly #texts = new Map<string, string>();
  onRead: (path: string) => void = () => {};

  set(path: string, text: string): void {
    this.#texts.set(path, text);
    this.#note(path);
  }

  /** The file changes and nobody has seen it yet. */
  slip(path: string, text: string): void {
    this.#texts.set(path, text);
  }

  remove(path: string): void {
    this.#texts.delete(path);
    this.entries.delete(path);
  }

  readonly content = async (path: string) => {
    this.onRead(path);
    const text = this.#texts.get(path);
    if (text === undefined) return undefined;
    this.#note(path);
    return { hash: hash(Buffer.from(text)), content: Buffer.from(text) };
  };

  #note(path: string): void {
    const text = this.#texts.get(path) ?? "";
    const data = Buffer.from(text);
    this.entries.set(path, entryOf(hash(data), data.length));
  }
}

function entryOf(name: string, size = 1, why = ""): Entry {
  return { hash: name, size, mtimeNs: 5n, ctimeNs: 5n, inode: 1n, why, secret: false };
}

function setUp(count = 3) {
  const server = new FakeServer();
  const files = new Files();
  for (let number = 0; number < count; number++) files.set(`f${number}`, `text ${number}`);
  const states: PushState[] = [];
  const met: unknown[] = [];
  const waits: number[] = [];
  const pusher = new Pusher({
    gateway: server,
    name: "tree",
    source: files,
    onState: (state) => states.push(state),
    met: (error) => met.push(error),
    wait: async (milliseconds) => void waits.push(milliseconds),
    random: () => 0,
  });
  const stop = new AbortController();
  return { server, files, states, met, waits, pusher, stop };
}

describe("a push", () => {
  it("is a manifest, what the server lacks, and the manifest again; then only what changed", async () => {
    const { server, files, pusher, stop, states } = setUp();
    await pusher.sync(stop.signal);
    expect(server.calls).toEqual(["create", "all 3", "blobs 3", "all 3"]);
    expect(server.tree()).toEqual({ f0: "text 0", f1: "text 1", f2: "text 2" });
    expect(states.filter((state) => state.sent !== undefined).at(-1)?.sent).toBe(1);
    files.set("f1", "new");
    files.remove("f2");
    files.set("f3", "text 0"); // the same content under another name
    pusher.changed(["f1", "f2", "f3", "f0"]);
    await pusher.sync(stop.signal);
    expect(server.calls.slice(4)).toEqual(["manifest 2 -1", "blobs 1", "manifest 2 -1"]);
    expect(server.tree()).toEqual({ f0: "text 0", f1: "new", f3: "text 0" });
    pusher.changed(["f1"]);
    await pusher.sync(stop.signal);
    expect(server.calls).toHaveLength(7);
    expect([server.twice, pusher.state.phase, pusher.state.revision]).toEqual([0, "synced", 2]);
  });

  it("tells only what a server may have", async () => {
    const { server, files, pusher, stop } = setUp(1);
    files.entries.set("held.txt", entryOf("", 3, "secret"));
    await pusher.sync(stop.signal);
    pusher.changed(["held.txt"]);
    await pusher.sync(stop.signal);
    expect(server.tree()).toEqual({ f0: "text 0" });
  });

  it("includes what is saved while it goes on", async () => {
    const { server, files, pusher, stop } = setUp(20);
    server.onBlobs = () => {
      server.onBlobs = () => {};
      files.set("f0", "saved meanwhile");
      files.set("late", "late");
      pusher.changed(["f0", "late"]);
    };
    await pusher.sync(stop.signal);
    expect(server.tree()).toMatchObject({ f0: "saved meanwhile", late: "late" });
    expect([server.twice, pusher.state.phase]).toEqual([0, "synced"]);
  });

  it("sends each content under the hash of its bytes, also where a file slipped away", async () => {
    const { server, files, pusher, stop } = setUp(3);
    files.slip("f1", "other than told");
    files.onRead = (path) => {
      if (path === "f2") files.remove("f2");
    };
    await pusher.sync(stop.signal);
    expect(server.tree()).toEqual({ f0: "text 0", f1: "other than told" });
  });

  it("goes in bodies of four megabytes, and nothing is sent twice when the list of missing ones is cut", async () => {
    const { server, files, pusher, stop } = setUp(0);
    for (let number = 0; number < 11; number++) files.set(`big${number}`, `${number}`.padEnd(1 << 20, "x"));
    server.reported = 3;
    await pusher.sync(stop.signal);
    const bodies = server.calls.filter((call) => call.startsWith("blobs"));
    expect(bodies.every((call) => Number(call.split(" ")[1]) <= 8)).toBe(true);
    expect([server.files.size, server.twice]).toEqual([11, 0]);
  });

  it("begins anew where the server stands elsewhere, or has lost the workspace", async () => {
    const { server, files, pusher, stop } = setUp();
    await pusher.sync(stop.signal);
    server.revision = 9; // somebody else pushed
    server.files.set("theirs", hash(Buffer.from("text 0")));
    files.set("f0", "mine");
    pusher.changed(["f0"]);
    await pusher.sync(stop.signal);
    expect(server.tree()).toEqual({ f0: "mine", f1: "text 1", f2: "text 2" });
    await server.deleteWorkspace();
    files.set("f1", "again");
    pusher.changed(["f1"]);
    await pusher.sync(stop.signal);
    expect(server.tree()).toEqual({ f0: "mine", f1: "again", f2: "text 2" });
    expect(server.twice).toBe(0);
  });

  it("gives up for now where they do not come together", async () => {
    const { server, pusher, stop } = setUp(1);
    server.fail.push(...Array.from({ length: 20 }, () => new Fault("conflict", "moved", "", 409, "revision_conflict")));
    Object.assign(server, { createWorkspace: async () => server.status() });
    await expect(pusher.sync(stop.signal)).rejects.toMatchObject({ kind: "busy" });
  });

  it("empties the workspace of an empty folder", async () => {
    const { server, files, pusher, stop } = setUp(1);
    await pusher.sync(stop.signal);
    files.remove("f0");
    pusher.changed(["f0"]);
    await pusher.sync(stop.signal);
    expect(server.tree()).toEqual({});
  });
});

describe("a run", () => {
  it("tries again what may pass, later each time, as the server asks, and goes on where it was", async () => {
    const { server, files, pusher, stop, states, met, waits } = setUp();
    const busy = new Fault("busy", "too much", "wait", 429, "overloaded", 40);
    server.fail.push(new Fault("refused", "nobody", "start it"), new Fault("server", "broke", "", 502), busy);
    const running = pusher.run(stop.signal).catch((error: unknown) => error);
    pusher.changed([]);
    await until(() => pusher.state.phase === "synced");
    expect(waits).toEqual([250, 500, 40_000]);
    expect(states.some((state) => state.phase === "waiting" && state.why === "nobody start it")).toBe(true);
    expect(met.map((error) => (error as Fault | undefined)?.kind)).toEqual(["refused", "server", "busy", undefined]);
    files.set("f0", "after");
    pusher.changed(["f0"]);
    await until(() => server.tree().f0 === "after");
    expect(server.twice).toBe(0);
    stop.abort();
    expect(await running).toMatchObject({ name: "AbortError" });
  });

  it("a break in the middle of the contents sends none of them twice", async () => {
    const { server, files, pusher, stop } = setUp(0);
    for (let number = 0; number < 9; number++) files.set(`big${number}`, `${number}`.padEnd(1 << 20, "y"));
    let bodies = 0;
    server.onBlobs = () => {
      bodies += 1;
      if (bodies === 2) throw new Fault("unreachable", "cut off", "");
    };
    const running = pusher.run(stop.signal).catch(() => {});
    pusher.changed([]);
    await until(() => pusher.state.phase === "synced");
    expect([server.files.size, server.twice]).toEqual([9, 0]);
    stop.abort();
    await running;
  });

  it("does not wait any longer when the server is said to be back", async () => {
    const server = new FakeServer();
    const files = new Files();
    files.set("a", "1");
    const pusher = new Pusher({ gateway: server, name: "tree", source: files, onState: () => {}, random: () => 0 });
    server.fail.push(new Fault("busy", "later", "", 429, undefined, 50));
    const stop = new AbortController();
    const running = pusher.run(stop.signal).catch((error: unknown) => error);
    pusher.changed([]);
    await until(() => pusher.state.phase === "waiting");
    await sleep(5);
    pusher.retry();
    await until(() => pusher.state.phase === "synced");
    pusher.retry();
    stop.abort();
    expect(await running).toMatchObject({ name: "AbortError" });
  });

  it("holds at a limit until a file changes, and then tells everything", async () => {
    const { server, files, pusher, stop } = setUp();
    server.fail.push(new Fault("bad_request", "too many files", "exclude some", 413, "too_many_files"));
    const running = pusher.run(stop.signal).catch(() => {});
    pusher.changed([]);
    await until(() => pusher.state.phase === "held");
    expect(pusher.state.why).toBe("too many files exclude some");
    files.remove("f2");
    pusher.changed(["f2"]);
    await until(() => pusher.state.phase === "synced");
    expect(Object.keys(server.tree())).toEqual(["f0", "f1"]);
    stop.abort();
    await running;
  });

  it("stops with words where only the user can help", async () => {
    const { server, pusher, stop } = setUp();
    server.fail.push(new Fault("unauthorized", "The key is not known.", "Enter another.", 401));
    pusher.changed([]);
    await expect(pusher.run(stop.signal)).rejects.toMatchObject({ kind: "unauthorized" });
    expect(pusher.state).toMatchObject({ phase: "failed", why: "The key is not known. Enter another." });
  });

  it("ends when it is aborted: before, while it waits, and while it sends", async () => {
    for (const when of ["before", "idle", "sending"]) {
      const { server, pusher, stop } = setUp();
      if (when === "before") stop.abort();
      if (when !== "idle") pusher.changed([]);
      if (when === "sending") server.onBlobs = () => stop.abort();
      const running = pusher.run(stop.signal);
      if (when === "idle") setTimeout(() => stop.abort(), 10);
      await expect(running, when).rejects.toMatchObject({ name: "AbortError" });
      expect(server.revision, when).toBe(0);
    }
  });

  it("does not hide a defect", async () => {
    const { server, pusher, stop } = setUp();
    server.fail.push(new TypeError("a defect"));
    pusher.changed([]);
    await expect(pusher.run(stop.signal)).rejects.toThrow("a defect");
  });
});

describe("what to do about a fault", () => {
  const of = (kind: FaultKind, status?: number, code?: string) => judge(new Fault(kind, "", "", status, code));
  it("depends on whether time heals it", () => {
    const again: FaultKind[] = ["dns", "refused", "unreachable", "proxy", "busy", "server", "protocol", "conflict"];
    for (const kind of again) expect(of(kind), kind).toBe("again");
    for (const kind of ["unauthorized", "forbidden", "tls", "not_found"] as FaultKind[]) expect(of(kind)).toBe("stop");
    expect(of("bad_request", 400)).toBe("hold");
    expect(of("busy", 429, "too_many_workspaces")).toBe("hold");
    expect(of("server", 413)).toBe("hold");
  });
});

describe("a manifest", () => {
  it("names what differs, in order", () => {
    const now = new Map([
      ["b", entryOf("2")],
      ["a", entryOf("1")],
      ["held", entryOf("", 1, "binary")],
      ["same", entryOf("s")],
    ]);
    const told = new Map([
      ["b", "0"],
      ["gone", "9"],
      ["held", "8"],
      ["same", "s"],
    ]);
    const batch = difference(4, told, now, ["same", "b", "a", "gone", "held", "never", "a"]);
    expect(batch).toMatchObject({ base: 4, removed: ["gone", "held"] });
    expect(batch?.files.map(([path, name, size, mtime]) => [path, name, size, mtime])).toEqual([
      ["a", "1", 1, 5n],
      ["b", "2", 1, 5n],
    ]);
    expect(difference(4, told, now, ["same", "never"])).toBeUndefined();
  });

  it("names everything that may be sent when nothing is known", async () => {
    const batch = await complete(
      new Map([
        ["a", entryOf("1")],
        ["held", entryOf("", 1, "binary")],
      ]),
    );
    expect([batch.base, batch.files.map(([path]) => path), [...batch.sent]]).toEqual([null, ["a"], [["a", "1"]]]);
  });
});
