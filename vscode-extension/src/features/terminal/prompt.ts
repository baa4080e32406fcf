/** What the model is asked for a command: the part that never changes first, so that it stays in the cache. */

import type { Message } from "../../api/gateway";

/** Where the command will run. Undefined: not known. */
export interface Surroundings {
  /** `linux`, `darwin`, `win32`: as node names it. */
  readonly platform: string;
  /** The shell's name or path; empty: not known. */
  readonly shell: string;
  /** Relative to the folder, with `/`; empty: the folder itself; undefined: no folder is open. */
  readonly directory: string | undefined;
  /** Names in the root of the folder. Only those that tell of tools are passed on. */
  readonly files: readonly string[];
}

const HEAD = [
  "You turn a description into one shell command.",
  "Answer with one JSON object and nothing else:",
  '{"command": "…", "explanation": "…"}',
  "command: what to type at the prompt of the named shell, ready to run, without placeholders where the description names the values. One line where possible.",
  "explanation: one short sentence that says what it does and what it changes.",
  "Prefer the simplest command with common tools that are installed everywhere or that the listed files call for.",
  "Never add sudo, force options, or a deletion that was not asked for.",
  "If it cannot be done by a command, leave command empty and say why in explanation.",
].join("\n");
const HEAD_SHORT = HEAD.split("\n")
  .filter((line) => !line.startsWith("explanation:"))
  .join("\n")
  .replace(', "explanation": "…"', "")
  .replace(" and say why in explanation", "");

const SYSTEMS: Readonly<Record<string, string>> = { darwin: "macOS", win32: "Windows", linux: "Linux" };
/** A file in the root tells which tool is used there. */
const HINTS: readonly (readonly [file: RegExp, hint: string])[] = [
  [/^package\.json$/, "package.json"],
  [/^pnpm-lock\.yaml$/, "pnpm-lock.yaml"],
  [/^yarn\.lock$/, "yarn.lock"],
  [/^package-lock\.json$/, "package-lock.json"],
  [/^bun\.lockb?$/, "bun.lock"],
  [/^deno\.jsonc?$/, "deno.json"],
  [/^pyproject\.toml$/, "pyproject.toml"],
  [/^uv\.lock$/, "uv.lock"],
  [/^poetry\.lock$/, "poetry.lock"],
  [/^requirements[\w.-]*\.txt$/, "requirements.txt"],
  [/^Pipfile$/, "Pipfile"],
  [/^environment\.ya?ml$/, "environment.yml"],
  [/^tox\.ini$/, "tox.ini"],
  [/^Cargo\.toml$/, "Cargo.toml"],
  [/^go\.mod$/, "go.mod"],
  [/^pom\.xml$/, "pom.xml"],
  [/^(?:build|settings)\.gradle(?:\.kts)?$/, "build.gradle"],
  [/^CMakeLists\.txt$/, "CMakeLists.txt"],
  [/^meson\.build$/, "meson.build"],
  [/^(?:GNU)?[Mm]akefile$/, "Makefile"],
  [/^[Jj]ustfile$/, "justfile"],
  [/^Gemfile$/, "Gemfile"],
  [/^composer\.json$/, "composer.json"],
  [/^mix\.exs$/, "mix.exs"],
  [/^[\w.-]+\.(?:sln|csproj)$/, "a .NET project"],
  [/^(?:Dockerfile|Containerfile)$/, "Dockerfile"],
  [/^(?:docker-)?compose\.ya?ml$/, "compose.yaml"],
  [/^\.git$/, ".git"],
];
const LONGEST = 4000;

/** The names of `files` that tell which tools are used, in a fixed order. */
export function hintsOf(files: readonly string[]): readonly string[] {
  return HINTS.filter(([file]) => files.some((name) => file.test(name))).map(([, hint]) => hint);
}

/** The messages for one description. `explain`: a sentence is wanted with it. */
export function promptFor(description: string, where: Surroundings, explain: boolean): readonly Message[] {
  const hints = hintsOf(where.files);
  const lines = [
    `System: ${SYSTEMS[where.platform] ?? where.platform}`,
    `Shell: ${shellName(where.shell) || "unknown"}`,
    ...(hints.length > 0 ? [`Files in the project's root: ${hints.join(", ")}`] : []),
    ...(where.directory === undefined
      ? []
      : [`Directory: ${where.directory === "" ? "the project's root" : where.directory}`]),
    `Description: ${description.trim().slice(0, LONGEST)}`,
  ];
  return [
    { role: "system", content: explain ? HEAD : HEAD_SHORT },
    { role: "user", content: lines.join("\n") },
  ];
}

/** `C:\…\pwsh.exe` is `pwsh`. */
export function shellName(shell: string): string {
  return (shell.split(/[\\/]/).at(-1) ?? "").replace(/\.exe$/i, "").toLowerCase();
}
