/**
 * Pushes a folder to a real server by the extension's own pusher, as a program:
 *
 *   npx esbuild test/integration/push.ts --bundle --platform=node --format=cjs --outfile=push.cjs
 *   AICOCKPIT_API_KEY=KEY node push.cjs http://127.0.0.1:8000 NAME FOLDER [LEDGER]
 *
 * Each line of its input is a path that may have changed (an empty one: everything). It prints one line of JSON whenever the
 * server has everything: revision, how many files, milliseconds since the start, how often contents were sent, the longest
 * turn of the event loop, and what it left out. It ends with its input.
 */

import { createInterface } from "node:readline";
import { createGateway } from "../../src/api/client";
import { createHash } from "../../src/features/workspace/hash";
import { Keeper } from "../../src/features/workspace/keeper";

/** CPU time of this thread in milliseconds, where Node can tell (24); else of the wall. */
function cpuMs(): number {
  const { threadCpuUsage } = process as { threadCpuUsage?: () => { user: number; system: number } };
  const used = threadCpuUsage?.call(process);
  return used === undefined ? performance.now() : (used.user + used.system) / 1000;
}

async function main([address = "", name = "", root = "", ledger]: readonly string[]): Promise<number> {
  const key = process.env.AICOCKPIT_API_KEY ?? "";
  const gateway = createGateway(() => ({
    address,
    key,
    caFile: "",
    remoteName: undefined,
    proxy: { setting: "none", editor: "", editorNoProxy: [], env: {} },
  }));
  const began = performance.now();
  let [bodies, contents, longest, last] = [0, 0, 0, cpuMs()];
  const turn = (): void => {
    const now = cpuMs();
    longest = Math.max(longest, now - last);
    last = now;
    setImmediate(turn);
  };
  const stop = new AbortController();
  let told = "";
  const keeper = new Keeper({
    root,
    name,
    ledger,
    hash: await createHash(),
    gateway: {
      createWorkspace: (of) => gateway.createWorkspace(of),
      manifest: (of, base, files, removed) => gateway.manifest(of, base, files, removed),
      blobs: (of, some) => {
        bodies += 1;
        contents += some.length;
        return gateway.blobs(of, some);
      },
    },
    say: (text) => process.stderr.write(`${text}\n`),
    onState: (state) => {
      const now = `${state.phase} ${state.revision} ${state.why}`;
      if (now === told) return;
      told = now;
      if (state.phase !== "synced") return;
      const spentMs = Math.round(performance.now() - began);
      const left = Object.fromEntries(state.leftOut);
      const { revision, files } = state;
      process.stdout.write(
        `${JSON.stringify({ revision, files, spentMs, bodies, contents, longestMs: longest, left })}\n`,
      );
    },
  });
  last = cpuMs();
  turn();
  const lines = createInterface({ input: process.stdin });
  lines.on("line", (line) => keeper.changed([line]));
  lines.on("close", () => stop.abort());
  try {
    return await keeper.run(stop.signal);
  } catch (error) {
    if (stop.signal.aborted) return 0;
    process.stderr.write(`${error}\n`);
    return 1;
  }
}

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`${error}\n`);
    process.exit(1);
  },
);
