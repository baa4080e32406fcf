/** Which entries of a folder belong to the workspace: `.aicockpitignore`, secrets, and outside git `.gitignore`. Pure. */

import { holdsKey, SECRET_NAMES } from "./secrets";
import { bytesOf, type Pattern, parsePattern } from "./wildmatch";

export const GIT_FILE = ".gitignore";
export const OWN_FILE = ".aicockpitignore";

type Kind = "git" | "own" | "secret";
/** Why an entry is left out; "" when it is not. */
export type Verdict = Kind | "";

/** The patterns of one ignore file. */
export class Block {
  readonly #patterns: readonly { readonly regex: RegExp; readonly pattern: Pattern }[];
  readonly #names: RegExp | undefined;
  readonly #paths: RegExp | undefined;

  /** `base`: its folder below the top, "" or ending in `/`, as bytes. */
  constructor(
    readonly base: string,
    readonly kind: Kind,
    patterns: readonly Pattern[],
  ) {
    this.#patterns = patterns.map((pattern) => ({ regex: whole(pattern.regex), pattern }));
    this.#names = any(patterns.filter((pattern) => pattern.nameOnly));
    this.#paths = any(patterns.filter((pattern) => !pattern.nameOnly));
  }

  /** True: excluded, false: included by `!`, undefined: not mentioned. The last pattern that matches decides. */
  decide(path: string, name: string, folder: boolean): boolean | undefined {
    const below = path.slice(this.base.length);
    if (!this.#names?.test(name) && !this.#paths?.test(below)) return undefined;
    for (let index = this.#patterns.length - 1; index >= 0; index--) {
      const found = this.#patterns[index];
      if (found === undefined || (found.pattern.foldersOnly && !folder)) continue;
      if (found.regex.test(found.pattern.nameOnly ? name : below)) return !found.pattern.negated;
    }
    return undefined;
  }
}

function whole(regex: string): RegExp {
  return new RegExp(`^(?:${regex})$`);
}

/** One expression for all: most names match none of them, and are told so in one go. */
function any(patterns: readonly Pattern[]): RegExp | undefined {
  return patterns.length ? whole(patterns.map((pattern) => `(?:${pattern.regex})`).join("|")) : undefined;
}

/** The lines of an ignore file, given as bytes. */
export function linesOf(content: string): readonly string[] {
  const text = content.startsWith("\xef\xbb\xbf") ? content.slice(3) : content;
  return text.split("\n").map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line));
}

/** The patterns of an ignore file's content (bytes, one character each); undefined when it has none. */
export function blockOf(content: string, base: string, kind: Kind, ignoreCase = false): Block | undefined {
  const patterns: Pattern[] = [];
  for (const line of linesOf(content)) {
    const pattern = parsePattern(line, ignoreCase);
    if (pattern !== undefined) patterns.push(pattern);
  }
  return patterns.length ? new Block(base, kind, patterns) : undefined;
}

/**
 * What holds in one folder. `own` stands in order of rising precedence: secrets, then outer folders first; they decide
 * before `git`. `prefix`: the opened folder below the top of its work tree, "" or ending in `/`, as bytes.
 */
export class Rules {
  constructor(
    readonly own: readonly Block[],
    readonly git: readonly Block[] = [],
    readonly prefix = "",
    readonly ignoreCase = false,
  ) {}

  /** With the secrets, and nothing else. */
  static first(prefix = "", ignoreCase = false): Rules {
    const secrets = blockOf(SECRET_NAMES.join("\n"), "", "secret", true);
    return new Rules(secrets ? [secrets] : [], [], bytesOf(prefix), ignoreCase);
  }

  /** `path` is relative to the opened folder. */
  excludes(path: string, folder: boolean): Verdict {
    const full = this.prefix + bytesOf(path);
    const name = full.slice(full.lastIndexOf("/") + 1);
    for (let index = this.own.length - 1; index >= 0; index--) {
      const block = this.own[index];
      const verdict = block?.decide(full, name, folder);
      if (block === undefined || verdict === undefined) continue;
      if (verdict) return block.kind;
      if (block.kind === "own") return "";
    }
    for (let index = this.git.length - 1; index >= 0; index--) {
      const verdict = this.git[index]?.decide(full, name, folder);
      if (verdict !== undefined) return verdict ? "git" : "";
    }
    return "";
  }

  /** Has a `.aicockpitignore` brought this file back by a pattern that matches the file itself? */
  allows(path: string): boolean {
    const full = this.prefix + bytesOf(path);
    const name = full.slice(full.lastIndexOf("/") + 1);
    for (let index = this.own.length - 1; index >= 0; index--) {
      const block = this.own[index];
      const verdict = block?.kind === "own" ? block.decide(full, name, false) : undefined;
      if (verdict !== undefined) return !verdict;
    }
    return false;
  }

  /** The rules inside `folder` (relative to the opened one; "../" never), given its ignore files as bytes. */
  enter(folder: string, git: string | undefined, own: string | undefined): Rules {
    return this.#add(folder ? `${this.prefix}${bytesOf(folder)}/` : this.prefix, git, own);
  }

  /** The same for a folder above the opened one: `base` is below the top, "" or ending in `/`. */
  above(base: string, git: string | undefined, own: string | undefined): Rules {
    return this.#add(bytesOf(base), git, own);
  }

  #add(base: string, git: string | undefined, own: string | undefined): Rules {
    const gitBlock = git ? blockOf(git, base, "git", this.ignoreCase) : undefined;
    const ownBlock = own ? blockOf(own, base, "own", this.ignoreCase) : undefined;
    if (gitBlock === undefined && ownBlock === undefined) return this;
    return new Rules(
      ownBlock ? [...this.own, ownBlock] : this.own,
      gitBlock ? [...this.git, gitBlock] : this.git,
      this.prefix,
      this.ignoreCase,
    );
  }
}

/** Judges files by themselves and by the folders above them; each folder is looked at once. */
export function judge(rules: Rules): (path: string) => Verdict {
  const folders = new Map<string, Verdict>();
  const above = (path: string): Verdict => {
    const end = path.lastIndexOf("/");
    if (end < 0) return "";
    const folder = path.slice(0, end);
    const known = folders.get(folder) ?? (above(folder) || rules.excludes(folder, true));
    folders.set(folder, known);
    return known;
  };
  return (path) => above(path) || rules.excludes(path, false);
}

const SECRETS = Rules.first();

/** By its name alone. Any path, relative or not, of any system; also one that leads out of the workspace. */
export function isSecretPath(path: string): boolean {
  const parts = path.split(/[\\/]/).filter((part) => !/^(?:\.{0,2}|[A-Za-z]:)$/.test(part));
  return judge(SECRETS)(parts.join("/")) !== "";
}

/** Why a file is not sent unless it is asked for in so many words; undefined: nothing speaks against it. */
export function secretIn(path: string, content: string | Uint8Array): string | undefined {
  if (isSecretPath(path)) return "may hold secrets";
  return holdsKey(path, typeof content === "string" ? Buffer.from(content) : content)
    ? "holds a private key"
    : undefined;
}

/** The line for a `.aicockpitignore` in the opened folder that brings back one file. */
export function including(path: string): string {
  const special = path.replace(/([*?[\\])/g, "\\$1");
  return `!/${special.endsWith(" ") ? `${special.slice(0, -1)}\\ ` : special}`;
}
