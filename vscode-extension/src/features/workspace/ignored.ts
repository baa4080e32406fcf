/**
 * Which files of a folder belong to the workspace, by the rules of docs/indexing.md: what git lists, without secrets, and
 * `.aicockpitignore` has the last word. Outside git the `.gitignore` files decide. Symlinks are never followed.
 */

import { constants } from "node:fs";
import { lstat, open, readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { Breath } from "../../api/breath";
import { type Git, namesOf, runGit } from "./git";
import { GIT_FILE, linesOf, OWN_FILE, Rules, type Verdict } from "./rules";
import { parsePattern } from "./wildmatch";

/** As many as a server takes. */
export const MAX_FILES = 200_000;
const MAX_PATH = 4096;
const MAX_PARTS = 128;
const MAX_IGNORE_FILE = 1 << 20;
const MAX_NEGATIONS = 500;
const MAX_REMEMBERED = 1000;
const PASSES = 3;

/** What was found. `leftOut`: how many were kept out, by reason. `problem`: what the user should know, in a sentence or two. */
export interface Listing {
  /** With `/`; links, pipes and folders of other repositories may be among them: they are told apart when they are read. */
  readonly paths: readonly string[];
  /** Of those: they may be sent although their content looks like a secret. */
  readonly allowed: ReadonlySet<string>;
  readonly leftOut: ReadonlyMap<string, number>;
  readonly problem: string;
}

interface Place {
  /** git lists its files; else its ignore files are read here. */
  readonly byGit: boolean;
  /** In a work tree: repositories inside are not entered. */
  readonly inTree: boolean;
  readonly rules: Rules;
  readonly problem: string;
}

/** Lists one folder; remembers its rules, so that a few files can be looked at without the others. */
export class Lister {
  #place: Place | undefined;
  #rules = new Map<string, Rules | Verdict>();
  #negations = new Set<string>();
  #ignoredFolders = new Set<string>();

  constructor(
    readonly root: string,
    private readonly git: Git = runGit,
  ) {}

  /** Everything, with the rules read afresh. Throws when the folder cannot be read. */
  async list(signal?: AbortSignal): Promise<Listing> {
    await readdir(this.root); // gone is not empty
    this.#rules = new Map();
    this.#negations = new Set();
    this.#ignoredFolders = new Set();
    this.#place = await this.#locate(signal);
    return this.#find(this.#place, undefined, signal);
  }

  /** Of these paths, files or folders, there or gone, what belongs to the workspace. By the rules of the last `list`. */
  async listOnly(paths: readonly string[], signal?: AbortSignal): Promise<Listing> {
    this.#place ??= await this.#locate(signal);
    return this.#find(this.#place, paths, signal);
  }

  /** Notes which folders above these files git ignores as a whole: `ignores` knows them then. */
  async learnIgnored(files: readonly string[], signal?: AbortSignal): Promise<void> {
    if (!this.#place?.byGit || this.#negations.size || this.#ignoredFolders.size >= MAX_REMEMBERED) return;
    const folders = new Set<string>();
    for (const file of files) for (const folder of above(file)) folders.add(folder);
    if (folders.size === 0) return;
    const input = [...folders].map((folder) => `${folder}\0`).join("");
    const answer = await this.git(this.root, ["check-ignore", "-z", "--stdin"], signal, input);
    if (answer.status === 0) for (const name of namesOf(answer.out).names) this.#ignoredFolders.add(name);
  }

  /** Does the path lie in a folder that is known to be ignored? */
  ignores(path: string): boolean {
    return this.#ignoredFolders.size > 0 && above(path).some((folder) => this.#ignoredFolders.has(folder));
  }

  async #locate(signal?: AbortSignal): Promise<Place> {
    const answer = await this.git(this.root, ["rev-parse", "--is-inside-work-tree", "--show-prefix"], signal);
    const [inside, prefix = ""] = answer.out.toString("utf8").split("\n");
    if (answer.status === 0 && inside === "true") return this.#inGit(prefix, signal);
    const top = await workTree(this.root);
    if (top === undefined || (answer.status === 0 && inside !== "true")) {
      return { byGit: false, inTree: false, rules: Rules.first(), problem: "" };
    }
    const below = this.root === top ? "" : `${relativeParts(top, this.root).join("/")}/`;
    const { rules } = await this.#above(Rules.first(below), below, true);
    return { byGit: false, inTree: true, rules, problem: answer.missing ? "" : gitFails(this.root, answer.error) };
  }

  async #inGit(prefix: string, signal?: AbortSignal): Promise<Place> {
    const setting = await this.git(this.root, ["config", "--type=bool", "core.ignorecase"], signal);
    const ignoreCase = setting.status === 0 && setting.out.toString("utf8").trim() === "true";
    const { rules } = await this.#above(Rules.first(prefix, ignoreCase), prefix, false);
    // A folder that git ignores, yet was opened: of git's rules, those inside it alone.
    const ignored = prefix !== "" && (await this.git(this.root, ["check-ignore", "-q", "."], signal)).status === 0;
    return { byGit: !ignored, inTree: true, rules, problem: "" };
  }

  /** The ignore files above the opened folder, up to the top of its work tree. */
  async #above(first: Rules, prefix: string, withGit: boolean): Promise<{ readonly rules: Rules }> {
    const parts = prefix.split("/").filter(Boolean);
    let rules = first;
    for (let depth = 0; depth < parts.length; depth++) {
      const folder = join(this.root, ...parts.slice(depth).map(() => ".."));
      const base = parts.slice(0, depth).map((part) => `${part}/`);
      const own = await load(join(folder, OWN_FILE));
      this.#noteNegations(base.join(""), own);
      rules = rules.above(base.join(""), withGit ? await load(join(folder, GIT_FILE)) : undefined, own);
    }
    return { rules };
  }

  async #find(place: Place, only: readonly string[] | undefined, signal?: AbortSignal): Promise<Listing> {
    const found = new Found(place.problem);
    if (!place.byGit) await this.#walk(place, found, only, signal);
    else {
      const failed = await this.#listByGit(place, found, only, signal);
      if (failed) {
        const walking: Place = { ...place, byGit: false, problem: gitFails(this.root, failed) };
        this.#place = walking;
        this.#rules = new Map();
        return this.#find(walking, only, signal);
      }
    }
    return found;
  }

  /** Why git failed; "" when it did not. */
  async #listByGit(place: Place, found: Found, only: readonly string[] | undefined, signal?: AbortSignal) {
    for (let pass = 1; ; pass++) {
      const brought = this.#negations.size;
      const excludes = [...this.#negations].slice(0, MAX_NEGATIONS).flatMap((pattern) => ["-x", pattern]);
      const words = ["--literal-pathspecs", "ls-files", "-z", "-c", "-o", "--exclude-standard", ...excludes];
      const answer = await this.git(this.root, [...words, "--", ...(only ?? [])], signal);
      if (answer.status !== 0) return answer.error || "no reason given";
      const { names, odd } = namesOf(answer.out);
      found.reset(odd);
      const breath = new Breath();
      for (const name of new Set(names)) {
        if (!name.endsWith("/")) await this.#decide(place, found, name, false);
        if (breath.due()) await breath.take(signal);
        if (found.full()) break;
      }
      // A `!` in a `.aicockpitignore` brings back what git ignores: git lists it when it is told so.
      if (this.#negations.size === brought || pass === PASSES) return "";
    }
  }

  async #decide(place: Place, found: Found, path: string, withGit: boolean): Promise<void> {
    const cut = path.lastIndexOf("/");
    const rules =
      this.#known(cut < 0 ? "" : path.slice(0, cut)) ?? (await this.#rulesIn(place, dirname(path), withGit));
    if (typeof rules === "string") found.leave(rules);
    else found.take(path, rules);
  }

  #known(folder: string): Rules | Verdict | undefined {
    return this.#rules.get(folder);
  }

  /** The rules inside a folder, or why it is left out. */
  async #rulesIn(place: Place, folder: string, withGit: boolean): Promise<Rules | Verdict> {
    const name = folder === "." ? "" : folder;
    const known = this.#rules.get(name);
    if (known !== undefined) return known;
    let rules: Rules | Verdict = place.rules;
    if (name) {
      const outer = await this.#rulesIn(place, dirname(name), withGit);
      rules = typeof outer === "string" ? outer : outer.excludes(name, true) || outer;
    }
    if (typeof rules !== "string") {
      const own = await load(join(this.root, name, OWN_FILE));
      const git = withGit ? await load(join(this.root, name, GIT_FILE)) : undefined;
      this.#noteNegations(name ? `${name}/` : "", own, rules.prefix);
      rules = rules.enter(name, git, own);
    }
    this.#rules.set(name, rules);
    return rules;
  }

  /** The lines that bring something back, as git takes them from its command line: below the top of the work tree. */
  #noteNegations(base: string, own: string | undefined, prefix = ""): void {
    for (const line of own ? linesOf(own) : []) {
      if (!parsePattern(line)?.negated) continue;
      const pattern = Buffer.from(line.slice(1), "latin1").toString("utf8");
      const whole = Buffer.from(prefix, "latin1").toString("utf8") + base;
      const anchored = /\/./.test(pattern);
      const place = whole.replace(/([*?[\\])/g, "\\$1");
      if (whole === "") this.#negations.add(`!${pattern}`);
      else this.#negations.add(`!/${place}${anchored ? pattern.replace(/^\//, "") : `**/${pattern}`}`);
    }
  }

  async #walk(place: Place, found: Found, only: readonly string[] | undefined, signal?: AbortSignal): Promise<void> {
    const stack: string[] = [];
    for (const path of only ?? [""]) {
      const seen = path ? await lstat(join(this.root, path)).catch(() => undefined) : undefined;
      if (path === "" || seen?.isDirectory()) stack.push(path);
      else if (seen?.isFile()) await this.#decide(place, found, path, true);
    }
    const breath = new Breath();
    for (let folder = stack.pop(); folder !== undefined && !found.full(); folder = stack.pop()) {
      if (breath.due()) await breath.take(signal);
      const rules = await this.#rulesIn(place, folder, true);
      if (typeof rules === "string") continue;
      const entries = await readdir(join(this.root, folder), { withFileTypes: true }).catch(() => undefined);
      if (entries === undefined) {
        if (folder === "") throw new Error(`${this.root} cannot be read`);
        found.leave("unreadable");
        continue;
      }
      if (place.inTree && folder && entries.some((entry) => entry.name === ".git")) continue;
      for (const entry of entries) {
        const path = folder ? `${folder}/${entry.name}` : entry.name;
        if (entry.name === ".git") continue;
        if (entry.isDirectory()) {
          if (!rules.excludes(path, true)) stack.push(path);
        } else if (!entry.isFile()) found.leave("special");
        else found.take(path, rules);
      }
    }
  }
}

class Found implements Listing {
  paths: string[] = [];
  allowed = new Set<string>();
  leftOut = new Map<string, number>();

  constructor(public problem: string) {}

  reset(odd: number): void {
    this.paths = [];
    this.allowed = new Set();
    this.leftOut = new Map();
    if (odd) this.leftOut.set("name", odd);
  }

  take(path: string, rules: Rules): void {
    const why = rules.excludes(path, false);
    if (why || !sendable(path)) {
      this.leave(why || "name");
      return;
    }
    this.paths.push(path);
    if (rules.own.length > 1 && rules.allows(path)) this.allowed.add(path);
  }

  leave(why: string): void {
    this.leftOut.set(why, (this.leftOut.get(why) ?? 0) + 1);
  }

  full(): boolean {
    if (this.paths.length < MAX_FILES) return false;
    this.problem = `The folder has more than ${MAX_FILES} files; the first ones are kept warm. Exclude folders in ${OWN_FILE}.`;
    return true;
  }
}

function sendable(path: string): boolean {
  if (path.includes("\ufffd")) return false;
  if (path.length * 3 <= MAX_PATH && path.length < MAX_PARTS) return true;
  return Buffer.byteLength(path) <= MAX_PATH && path.split("/").length <= MAX_PARTS;
}

/** The folders above a path, the nearest last. */
function above(path: string): string[] {
  const found: string[] = [];
  for (let cut = path.indexOf("/"); cut >= 0; cut = path.indexOf("/", cut + 1)) found.push(path.slice(0, cut));
  return found;
}

function gitFails(folder: string, why: string): string {
  const first = why.split("\n")[0] ?? "";
  const fix = /dubious ownership|safe\.directory/.test(why)
    ? ` Run: git config --global --add safe.directory "${folder}"`
    : "";
  return `git fails in ${folder}, so its ignore files alone decide what is sent: ${first.replace(/^fatal: /, "")}.${fix}`;
}

/** The nearest folder, from this one up, with a `.git`. */
async function workTree(folder: string): Promise<string | undefined> {
  for (let top = folder; ; top = dirname(top)) {
    if (await stat(join(top, ".git")).catch(() => undefined)) return top;
    if (dirname(top) === top) return undefined;
  }
}

function relativeParts(top: string, folder: string): string[] {
  const parts: string[] = [];
  for (let place = folder; place !== top; place = dirname(place)) parts.unshift(basename(place));
  return parts;
}

/** An ignore file's content as bytes, one character each; undefined when there is none. Symlinks are not followed. */
async function load(path: string): Promise<string | undefined> {
  // These are 0 or not there where the system knows no such thing.
  const flags = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);
  const file = await open(path, flags).catch(() => undefined);
  if (file === undefined) return undefined;
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(64 << 10), 0, 64 << 10, 0);
    if (bytesRead < 64 << 10) return buffer.toString("latin1", 0, bytesRead);
    return (await file.readFile()).toString("latin1", 0, MAX_IGNORE_FILE);
  } catch {
    return undefined;
  } finally {
    await file.close();
  }
}
