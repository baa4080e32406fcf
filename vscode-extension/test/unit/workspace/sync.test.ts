import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { Fault } from "../../../src/api/fault";
import type { LaneStatus, WorkspaceStatus } from "../../../src/api/gateway";
import { looksLike, pathIn, plainName, suffixed, workspaceName } from "../../../src/features/workspace/names";
import { type Memory, Sync } from "../../../src/features/workspace/sync";
import { pollMs, retryMs, warmthOf } from "../../../src/features/workspace/warmth";
import { FakeServer, folderOf, hash, until, write } from "./rig";

const made: Sync[] = [];
afterEach(() => {
  for (const sync of made.splice(0)) sync.dispose();
});

function laneOf(state: string, more: Partial<LaneStatus> = {}): LaneStatus {
  return {
    model: "m",
    lane: "completion",
    state,
    reason: "",
    resident: undefined,
    packTokens: 100,
    filesInPack: 1,
    journalTokens: 0,
    predictedTtftS: undefined,
    lastSaveToWarmS: undefined,
    ...more,
  };
}

interface World {
  readonly server: FakeServer;
  memory: Memory | undefined;
  mode: "ask" | "always" | "never";
  answer: "yes" | "later" | "never" | "none";
  asked: string[];
  /** Does the server index folders of its own machine? */
  here: boolean;
  address: string;
  lanes: LaneStatus[];
  said: string[];
  met: unknown[];
  watching: boolean;
  indexed: string[];
  hereFault: unknown;
  refusal: unknown;
}

function setUp(change: Partial<World> = {}, tree: Record<string, string> = { "a.py": "1", "b.py": "2" }) {
  const folder = folderOf(tree);
  const world: World = {
    server: new FakeServer(),
    memory: undefined,
    mode: "ask",
    answer: "yes",
    asked: [],
    here: false,
    address: "http://one:8000",
    lanes: [],
    said: [],
    met: [],
    watching: false,
    indexed: [],
    hereFault: undefined,
    refusal: undefined,
    ...change,
  };
  const { server } = world;
  const sync = new Sync({
    folder,
    name: () => "tree",
    gateway: {
      get address() {
        return world.address;
      },
      workspace: async (name) => {
        const found = await server.workspace(name);
        return found && { ...found, lanes: world.lanes };
      },
      createWorkspace: async (name) => {
        if (world.refusal !== undefined) throw world.refusal;
        return server.createWorkspace(name);
      },
      deleteWorkspace: server.deleteWorkspace,
      manifest: server.manifest,
      blobs: server.blobs,
      watchHere: async (name) => {
        if (world.hereFault !== undefined) throw world.hereFault;
        if (world.here) {
          world.indexed.push(name);
          server.there = true;
        }
        return world.here;
      },
      unwatch: async () => void world.indexed.pop(),
    },
    ledger: join(folder, "..", `${folder}.ledger`),
    hash: async () => hash,
    mode: () => world.mode,
    memory: {
      get: () => world.memory,
      set: (memory) => {
        world.memory = memory;
      },
    },
    ask: async (name) => {
      world.asked.push(name);
      return world.answer === "none" ? await new Promise<never>(() => {}) : world.answer;
    },
    model: () => "m",
    focused: () => true,
    watch: (on) => {
      world.watching = on;
    },
    onChange: () => {},
    say: (text) => world.said.push(text),
    met: (error) => world.met.push(error),
  });
  made.push(sync);
  return { world, sync, server, folder };
}

describe("a folder that was opened", () => {
  it("is asked about once, sent after a yes, and remembered for this server", async () => {
    const { world, sync, server, folder } = setUp();
    expect([sync.status, sync.workspace]).toEqual([undefined, undefined]);
    await sync.connected();
    await until(() => sync.workspace === "tree");
    expect(world.asked).toEqual(["tree"]);
    expect(world.memory).toEqual({ decision: "yes", name: "tree", address: "http://one:8000" });
    expect([world.watching, sync.status?.how, Object.keys(server.tree())]).toEqual([true, "pushing", ["a.py", "b.py"]]);
    world.lanes = [laneOf("warm")];
    sync.nudge();
    await until(() => sync.status?.state === "warm");
    write(folder, { "a.py": "saved" });
    sync.changed(["a.py"]);
    await until(() => server.tree()["a.py"] === "saved");
    expect(sync.status).toMatchObject({ state: "warm", warm: 1, sent: undefined });
    await sync.connected();
    expect(world.asked).toHaveLength(1);
    sync.dispose();
    await until(() => !world.watching);
  });

  it("is not sent before the answer, after a no, or where the settings say never", async () => {
    for (const change of [{ answer: "none" }, { answer: "later" }, { answer: "never" }, { mode: "never" }] as const) {
      const { world, sync, server } = setUp(change);
      await sync.connected();
      await sync.connected();
      expect(
        server.calls.filter((call) => call !== "workspace"),
        JSON.stringify(change),
      ).toEqual([]);
      expect(world.asked.length).toBe("mode" in change ? 0 : 1);
      expect([sync.status, sync.workspace]).toEqual([undefined, undefined]);
    }
  });

  it("stays unasked after a never, and is kept when the user wants it all the same", async () => {
    const { world, sync, server } = setUp({ answer: "never" });
    await sync.connected();
    await until(() => world.memory?.decision === "never");
    world.mode = "always";
    await sync.connected();
    expect(server.files.size).toBe(0);
    await sync.start();
    await until(() => server.files.size === 2);
    expect(world.memory?.decision).toBe("yes");
  });

  it("may be wanted while the question stands", async () => {
    const { world, sync, server } = setUp({ answer: "none" });
    await sync.connected();
    await sync.start();
    await until(() => server.files.size === 2);
    expect(world.asked).toHaveLength(1);
  });

  it("is sent without a question where the settings say always, and is not any more when they say never", async () => {
    const { world, sync, server } = setUp({ mode: "always" });
    await sync.connected();
    await until(() => server.files.size === 2);
    expect(world.asked).toEqual([]);
    world.mode = "never";
    await sync.connected();
    expect([sync.status, world.watching]).toEqual([undefined, false]);
  });

  it("is left to a server on this machine, asked again when it comes back, and pushed when it cannot any more", async () => {
    const { world, sync, server } = setUp({ here: true });
    await sync.connected();
    await until(() => sync.status?.how === "server");
    expect([world.watching, sync.workspace, server.files.size]).toEqual([false, "tree", 0]);
    await sync.connected();
    expect(world.indexed).toEqual(["tree", "tree"]);
    world.here = false;
    await sync.connected();
    await until(() => server.files.size === 2);
    expect(sync.status?.how).toBe("pushing");
  });

  it("is used at once where the server has it already, and another folder's workspace is left alone", async () => {
    const { sync, server } = setUp({ answer: "later" });
    server.there = true;
    server.files = new Map([
      ["a.py", "1"],
      ["b.py", "2"],
    ]);
    await sync.connected();
    expect([sync.workspace, sync.status?.how]).toEqual(["tree", "paused"]);

    const other = setUp();
    other.server.there = true;
    other.server.files = new Map(Array.from({ length: 500 }, (_, number) => [`f${number}`, "0"]));
    await other.sync.connected();
    await until(() => other.world.memory !== undefined);
    expect(other.world.memory?.name).toMatch(/^tree-[0-9a-f]{6}$/);
  });

  it("is asked about anew, and begun anew, at another server", async () => {
    const { world, sync, server } = setUp();
    await sync.connected();
    await until(() => server.files.size === 2);
    world.address = "http://two:8000";
    world.answer = "none";
    await server.deleteWorkspace();
    await sync.connected();
    await until(() => world.asked.length === 2);
    expect([sync.workspace, world.watching, server.files.size]).toEqual([undefined, false, 0]);
  });

  it("is ended by the user, and removed from the server if he likes", async () => {
    for (const remove of [false, true]) {
      const { world, sync, server } = setUp();
      await sync.connected();
      await until(() => sync.workspace === "tree");
      await sync.stop(remove);
      expect([sync.status, world.watching, world.memory?.decision, server.there]).toEqual([
        undefined,
        false,
        "never",
        !remove,
      ]);
    }
    const local = setUp({ here: true });
    await local.sync.connected();
    await until(() => local.sync.status?.how === "server");
    await local.sync.stop(false);
    expect(local.world.indexed).toEqual([]);
  });

  it("tells why it failed, and goes on when the server is itself again", async () => {
    const { world, sync } = setUp({ mode: "always" });
    world.refusal = new Fault("unauthorized", "The key is not known.", "Enter another.", 401);
    await sync.connected();
    await until(() => sync.status?.state === "failed" && !world.watching);
    expect([sync.status?.why, world.watching]).toEqual(["The key is not known. Enter another.", false]);
    expect(sync.workspace).toBeUndefined();
    world.refusal = undefined;
    await sync.connected();
    await until(() => sync.workspace === "tree");
    expect(sync.status?.state).not.toBe("failed");
  });

  it("meets a fault of the way without losing anything", async () => {
    const { world, sync } = setUp({ mode: "always", hereFault: new Fault("refused", "Nobody listens.", "Start it.") });
    await sync.connected();
    await until(() => world.met.length > 0);
    expect((world.met.find((error) => error !== undefined) as Fault).kind).toBe("refused");
    world.hereFault = undefined;
    await sync.connected();
    await until(() => sync.workspace === "tree");
    world.hereFault = new TypeError("a defect");
    const broken = setUp({ hereFault: new TypeError("a defect"), mode: "always" });
    await broken.sync.connected();
    expect(broken.world.said.join()).toContain("a defect");
  });

  it("is looked at often while it warms, and again when the window comes back", async () => {
    vi.useFakeTimers();
    try {
      const { world, sync, server } = setUp({
        here: true,
        mode: "always",
        lanes: [laneOf("warming", { resident: 0.5 })],
      });
      await sync.connected();
      await vi.advanceTimersByTimeAsync(5100);
      const looks = server.calls.filter((call) => call === "workspace").length;
      expect(looks).toBeGreaterThanOrEqual(6);
      expect(sync.status).toMatchObject({ state: "warming", warm: 0.5 });
      world.lanes = [laneOf("warm")];
      await vi.advanceTimersByTimeAsync(1100);
      const before = server.calls.length;
      await vi.advanceTimersByTimeAsync(10_000);
      expect(server.calls.length).toBe(before);
      sync.nudge();
      await vi.advanceTimersByTimeAsync(1);
      expect(server.calls.length).toBe(before + 1);
      server.there = false; // deleted at the server: it is asked to index again
      sync.nudge();
      await vi.advanceTimersByTimeAsync(1);
      expect(world.indexed.length).toBeGreaterThan(1);
      server.fail.push(new Fault("refused", "away", ""));
      sync.nudge();
      await vi.advanceTimersByTimeAsync(1);
      expect(world.met.some((error) => error instanceof Fault)).toBe(true);
      const failed = server.calls.length;
      await vi.advanceTimersByTimeAsync(1001); // a server that starts anew is not left alone for long
      expect(server.calls.length).toBeGreaterThan(failed);
    } finally {
      vi.useRealTimers();
    }
  });

  it("takes what another view has just heard of it, and says the same", async () => {
    const { sync, server } = setUp({ here: true, mode: "always", lanes: [laneOf("warming", { resident: 0.96 })] });
    await sync.connected();
    await until(() => sync.status?.state === "warming");
    const heard: WorkspaceStatus = { name: "tree", revision: 1, files: 2, bytes: 2, lanes: [laneOf("warm")] };
    sync.saw({ ...heard, name: "another" });
    expect(sync.status).toMatchObject({ state: "warming", warm: 0.96 });
    const before = server.calls.length;
    sync.saw(heard);
    expect(sync.status).toMatchObject({ state: "warm", warm: 1 });
    expect(server.calls.length).toBe(before);
  });
});

describe("names", () => {
  it("are what the server takes", () => {
    expect(plainName("My Project (2)")).toBe("My-Project-2-");
    expect(plainName("..hidden")).toBe("hidden");
    expect(plainName("日本")).toBe("workspace");
    expect(plainName("x".repeat(80))).toHaveLength(64);
    expect(workspaceName("", "/home/me/app", new Set())).toBe("app");
    expect(workspaceName(" wanted ", "/home/me/app", new Set())).toBe("wanted");
    const second = workspaceName("", "/home/me/other/app", new Set(["app"]));
    expect(second).toBe(suffixed("app", "/home/me/other/app"));
    expect(suffixed("x".repeat(64), "/a")).toHaveLength(64);
  });

  it("place a file in a folder, or not", () => {
    expect(pathIn("/a/b", "/a/b/c/d.py")).toBe("c/d.py");
    expect(pathIn("/a/b", "/a/b/..c")).toBe("..c");
    for (const outside of ["/a/b", "/a/bc", "/a", "/x/y"]) expect(pathIn("/a/b", outside)).toBeUndefined();
  });

  it("tell a folder from another by how many files it has", () => {
    expect([looksLike(100, 95), looksLike(2, 3), looksLike(100, 50), looksLike(0, 0)]).toEqual([
      true,
      true,
      false,
      false,
    ]);
  });
});

describe("warmth", () => {
  const of = (...lanes: LaneStatus[]) => {
    const status: WorkspaceStatus = { name: "t", revision: 1, files: 1, bytes: 1, lanes };
    return warmthOf(status, "m");
  };

  it("is one word and one number", () => {
    expect(of()).toMatchObject({ state: "cold", warm: 0 });
    expect(of(laneOf("off", { reason: "no gain" }))).toEqual({ state: "off", warm: undefined, why: "no gain" });
    expect(of(laneOf("warm"), laneOf("off"))).toMatchObject({ state: "warm", warm: 1 });
    expect(of(laneOf("warm"), laneOf("warming", { resident: 0.5 }))).toMatchObject({ state: "warming", warm: 0.75 });
    expect(of(laneOf("building", { reason: "reading" }))).toEqual({ state: "warming", warm: 0, why: "reading" });
    expect(of(laneOf("stuck", { reason: "no tokenizer" }))).toMatchObject({ state: "failed", why: "no tokenizer" });
    expect(of(laneOf("cold", { reason: "not ready" }))).toEqual({ state: "cold", warm: 0, why: "not ready" });
    expect(of(laneOf("cold"), laneOf("warm"))).toMatchObject({ state: "warming", warm: 0.5 });
    expect(of(laneOf("warm"), laneOf("cold", { model: "other" }))).toMatchObject({ state: "warm" });
    expect(of(laneOf("cold", { model: "other" }))).toMatchObject({ state: "cold" });
  });

  it("is asked for as often as it matters", () => {
    expect([pollMs("warm", true), pollMs("warming", true)]).toEqual([15_000, 1000]);
    expect([pollMs("warm", false), pollMs("warming", false)]).toEqual([60_000, 2000]);
    expect([1, 2, 3, 9].map(retryMs)).toEqual([1000, 2000, 4000, 15_000]);
  });
});
