/** Folders on disk, and a server that keeps what it is told: for the tests of the workspace. */

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach } from "vitest";
import { Fault } from "../../../src/api/fault";
import type { ManifestAnswer, ManifestFile, WorkspaceStatus } from "../../../src/api/gateway";
import { createHash } from "../../../src/features/workspace/hash";

export const hash = await createHash();
const made: string[] = [];

afterEach(() => {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true, force: true });
});

export type Tree = Readonly<Record<string, string | Uint8Array>>;

/** A new folder with these files; removed after the test. */
export function folderOf(tree: Tree = {}): string {
  const folder = mkdtempSync(join(tmpdir(), "aicockpit-"));
  made.push(folder);
  write(folder, tree);
  return folder;
}

export function write(folder: string, tree: Tree): void {
  for (const [path, content] of Object.entries(tree)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
}

/** Runs git with a user of its own and none of the machine's settings. */
export function git(folder: string, ...words: string[]): string {
  const own = { GIT_CONFIG_GLOBAL: "/dev/null", GIT_CONFIG_SYSTEM: "/dev/null" };
  const user = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"];
  return execFileSync("git", [...user, ...words], { cwd: folder, env: { ...process.env, ...own }, encoding: "utf8" });
}

/** A work tree with these files, all that is not ignored committed. */
export function repositoryOf(tree: Tree): string {
  const folder = folderOf(tree);
  git(folder, "init", "-q");
  git(folder, "add", "-A");
  git(folder, "commit", "-q", "--allow-empty", "-m", "first");
  return folder;
}

export async function until(condition: () => boolean, limitMs = 8000): Promise<void> {
  const end = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within ${limitMs} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** One workspace, as the real server keeps it. `fail` is thrown by the next calls, one each. */
export class FakeServer {
  revision = 0;
  there = false;
  files = new Map<string, string>();
  readonly contents = new Map<string, Uint8Array>();
  /** Contents that came although they were there: none may. */
  twice = 0;
  readonly calls: string[] = [];
  readonly fail: unknown[] = [];
  reported = 4096;
  onBlobs: () => void = () => {};

  readonly status = (name = "tree"): WorkspaceStatus => ({
    name,
    revision: this.revision,
    files: this.files.size,
    bytes: 0,
    lanes: [],
  });

  readonly workspace = async (name: string): Promise<WorkspaceStatus | undefined> => {
    this.#called("workspace");
    return this.there ? this.status(name) : undefined;
  };

  readonly createWorkspace = async (name: string): Promise<WorkspaceStatus> => {
    this.#called("create");
    this.there = true;
    return this.status(name);
  };

  readonly deleteWorkspace = async (): Promise<void> => {
    this.#called("delete");
    this.there = false;
    this.files = new Map();
    this.revision = 0;
  };

  readonly manifest = async (
    _name: string,
    base: number | null,
    rows: readonly ManifestFile[],
    removed: readonly string[],
  ): Promise<ManifestAnswer> => {
    this.#called(base === null ? `all ${rows.length}` : `manifest ${rows.length} -${removed.length}`);
    if (!this.there) throw new Fault("not_found", "gone", "", 404, "workspace_not_found");
    if (base !== null && base !== this.revision) throw new Fault("conflict", "moved", "", 409, "revision_conflict");
    const lacking = [...new Set(rows.map(([, hash]) => hash))].filter((one) => !this.contents.has(one));
    if (lacking.length) {
      const missing = lacking.slice(0, this.reported);
      return { applied: false, revision: this.revision, missing, missingCount: lacking.length };
    }
    const before = JSON.stringify([...this.files].sort());
    if (base === null) this.files = new Map();
    for (const [path, hash] of rows) this.files.set(path, hash);
    for (const path of removed) this.files.delete(path);
    if (before !== JSON.stringify([...this.files].sort())) this.revision += 1;
    return { applied: true, revision: this.revision, missing: [], missingCount: 0 };
  };

  readonly blobs = async (_name: string, contents: readonly { hash: string; content: Uint8Array }[]): Promise<void> => {
    this.onBlobs();
    this.#called(`blobs ${contents.length}`);
    for (const { hash: name, content } of contents) {
      if (hash(content) !== name) throw new Error("a content does not have its hash");
      if (this.contents.has(name)) this.twice += 1;
      this.contents.set(name, content);
    }
  };

  /** Path and text of what the server has. */
  tree(): Record<string, string> {
    const text = (name: string): string => Buffer.from(this.contents.get(name) ?? []).toString("utf8");
    return Object.fromEntries([...this.files].sort().map(([path, name]) => [path, text(name)]));
  }

  #called(what: string): void {
    this.calls.push(what);
    if (this.fail.length) throw this.fail.shift();
  }
}
