/** Programs that run other programs: finds what is really run. */

import { changes, dangerous, type Verdict } from "./verdict";
import type { Dialect, Word } from "./words";

/** What a command turns out to run. */
export type Inner =
  | {
      readonly kind: "words";
      readonly words: readonly Word[];
      /** Further programs, each with its words. */
      readonly also?: readonly (readonly Word[])[];
      readonly own: Verdict | undefined;
    }
  | { readonly kind: "text"; readonly text: string; readonly dialect: Dialect; readonly own: Verdict | undefined }
  /** Code of a language that is not a shell's. */
  | { readonly kind: "code"; readonly text: string; readonly own: Verdict };

interface Wrapper {
  /** Options whose value is a word of its own. */
  readonly values: ReadonlySet<string>;
  /** Words of its own before the program. */
  readonly skip: number;
  readonly own?: Verdict;
}

function wrapper(values: string, skip = 0, own?: Verdict): Wrapper {
  return { values: new Set(values.split(" ")), skip, ...(own !== undefined && { own }) };
}

const ROOT = dangerous("runs as the administrator");

const WRAPPERS: ReadonlyMap<string, Wrapper> = new Map([
  ["sudo", wrapper("-u -g -h -p -C -D -R -T -U --user --group", 0, ROOT)],
  ["doas", wrapper("-u -C", 0, ROOT)],
  ["pkexec", wrapper("--user", 0, ROOT)],
  ["gsudo", wrapper("-u", 0, ROOT)],
  ["env", wrapper("-u --unset -C --chdir")],
  ["nohup", wrapper("")],
  ["time", wrapper("-f -o")],
  ["nice", wrapper("-n")],
  ["ionice", wrapper("-c -n -p")],
  ["timeout", wrapper("-s -k --signal --kill-after", 1)],
  ["stdbuf", wrapper("-i -o -e")],
  ["setsid", wrapper("")],
  ["builtin", wrapper("")],
  ["command", wrapper("")],
  ["exec", wrapper("-a")],
  ["xargs", wrapper("-n -I -P -d -L -a -s -E --max-args --max-procs --delimiter --replace")],
  ["watch", wrapper("-n --interval")],
  ["caffeinate", wrapper("-t")],
  ["unbuffer", wrapper("")],
  ["busybox", wrapper("")],
  ["toybox", wrapper("")],
  ["strace", wrapper("-e -o -p -s")],
  ["ltrace", wrapper("-e -o -p -s")],
  ["parallel", wrapper("-j --jobs -n")],
  ["flock", wrapper("-w -E", 1)],
  ["chroot", wrapper("", 1, dangerous("changes what the root folder is"))],
  ["systemd-run", wrapper("-u -p --unit")],
  ["coproc", wrapper("")],
  ["then", wrapper("")],
  ["do", wrapper("")],
  ["else", wrapper("")],
  ["elif", wrapper("")],
  ["if", wrapper("")],
  ["while", wrapper("")],
  ["until", wrapper("")],
  ["!", wrapper("")],
  ["{", wrapper("")],
  ["}", wrapper("")],
  ["&", wrapper("")],
  ["start-process", wrapper("")],
]);

/** Shells: they run what they are told with -c, or what they read. */
export const SHELLS: ReadonlySet<string> = new Set(
  "sh bash zsh dash ash ksh mksh fish csh tcsh rbash elvish nu xonsh".split(" "),
);
const POWERSHELLS = new Set(["powershell", "pwsh"]);

const CODE: ReadonlyMap<string, RegExp> = new Map([
  ["python", /^-[a-zA-Z]*c$/],
  ["pypy", /^-c$/],
  ["perl", /^-[a-zA-Z0-9]*[eE]$/],
  ["ruby", /^-[a-z]*e$/],
  ["node", /^(?:-[ep]|-pe|--eval|--print)$/],
  ["bun", /^(?:-e|--eval)$/],
  ["deno", /^eval$/],
  ["php", /^-r$/],
  ["lua", /^-e$/],
  ["rscript", /^-e$/],
  ["osascript", /^-e$/],
  ["emacs", /^--eval$/],
  ["vim", /^-c$/],
  ["nvim", /^-c$/],
  ["gdb", /^-ex$/],
]);
// They run what stands somewhere behind: in a container, an environment, on another machine.
const CARRIERS = new Set(
  (
    "docker podman nerdctl kubectl oc docker-compose npx pnpx bunx pipx uvx uv poetry pipenv conda mamba nix nix-shell wsl vagrant ssh mosh " +
    "unshare nsenter firejail proot bwrap entr perf valgrind tmux screen script su runuser sg concurrently nodemon direnv mise asdf rye hatch tox"
  ).split(" "),
);
const CONTAINERS = new Set(["docker", "podman", "nerdctl", "kubectl", "oc", "docker-compose"]);
const REMOTE = new Set(["ssh", "mosh", "su", "runuser", "wsl", "nix-shell"]);
// Programs for which it matters that somebody else starts them.
const WORTH_A_LOOK =
  /(?:^|\/)(?:rm|dd|shred|truncate|mkfs[\w.]*|chmod|chown|find|xargs|kill|killall|pkill|sudo|su|doas|env|eval|curl|wget|nc|tee|mv|reboot|shutdown|sh|bash|zsh|dash|ash|ksh|fish|python\d?|perl|ruby|node|psql|mysql|mariadb|mongosh|redis-cli|dropdb)$/;
const ASSIGNMENT = /^[A-Za-z_]\w*\+?=/;

/** The language's name without its version: `python3.11` is `python`. Undefined: no language. */
export function languageOf(program: string): string | undefined {
  const name = program.replace(/[\d.]+$/, "").replace(/^nodejs$/, "node");
  return CODE.has(name) ? name : undefined;
}

/** Whether this program, given these words, takes its own program from what is piped in. */
export function readsProgram(program: string, words: readonly Word[]): boolean {
  const shell = SHELLS.has(program) || POWERSHELLS.has(program);
  const language = languageOf(program);
  if (!shell && (language === undefined || /^(?:n?vim|emacs|gdb|deno|bun)$/.test(language))) {
    return program === "iex" || program === "invoke-expression" || program === "cmd";
  }
  for (const { text } of words) {
    if (text === "-" || text === "-s" || text === "/dev/stdin") return true;
    if (shell && /^-[a-z]*c$|^-command$|^-file$/i.test(text)) return false;
    if (language !== undefined && (CODE.get(language)?.test(text) || /^-[mn]/.test(text))) return false;
    if (!text.startsWith("-")) return false;
  }
  return true;
}

/** Whether it does something of its own besides starting another program. */
export function doesMore(program: string): boolean {
  return CARRIERS.has(program) || program === "find" || program === "fd" || program === "fdfind";
}

/** What is really run; undefined: the program itself, and nothing else. */
export function innerOf(program: string, words: readonly Word[]): Inner | undefined {
  const given = words.slice(1);
  if (program === "command" && /^-[vV]$/.test(given[0]?.text ?? "")) return undefined;
  if (program === "env" || WRAPPERS.has(program)) return wrapped(program, given);
  if (SHELLS.has(program)) return optionText(given, /^-[a-zA-Z]*c$/, "posix");
  if (POWERSHELLS.has(program)) return powershell(given);
  if (program === "cmd") return restText(given, /^\/[ck]$/i, "cmd");
  if (program === "eval" || program === "invoke-expression" || program === "iex")
    return joined(given, program === "eval" ? "posix" : "powershell");
  if (program === "trap" || program === "alias") return definition(given);
  if (program === "find" || program === "fd" || program === "fdfind") return executed(given);
  const language = languageOf(program);
  if (language !== undefined) return code(language, given);
  if (CARRIERS.has(program)) return carried(program, given);
  return undefined;
}

function wrapped(program: string, given: readonly Word[]): Inner | undefined {
  const { values, skip, own } = WRAPPERS.get(program) ?? wrapper("");
  let [at, left] = [0, skip];
  for (; at < given.length; at++) {
    const text = given[at]?.text ?? "";
    if (program === "env" && /^(?:-S|--split-string)/.test(text)) return splitString(given.slice(at));
    if (values.has(text)) at++;
    else if (text.startsWith("-") && text !== "-") continue;
    else if (ASSIGNMENT.test(text) || text === "{}") continue;
    else if (left-- <= 0) break;
  }
  const words = given.slice(at);
  if (words.length === 0 && own === undefined) return undefined;
  // These hand it to a shell.
  if ((program === "watch" || program === "parallel") && /\s/.test(words[0]?.text ?? "")) return joined(words, "posix");
  return { kind: "words", words, own };
}

function optionText(given: readonly Word[], option: RegExp, dialect: Dialect): Inner | undefined {
  const at = given.findIndex((word) => option.test(word.text));
  const word = given[at + 1];
  if (at < 0 || word === undefined) return undefined;
  const own = word.dynamic ? dangerous("runs text that is only known when it runs") : undefined;
  return { kind: "text", text: word.text, dialect, own };
}

function restText(given: readonly Word[], option: RegExp, dialect: Dialect): Inner | undefined {
  const at = given.findIndex((word) => option.test(word.text));
  return at < 0 ? undefined : joined(given.slice(at + 1), dialect);
}

function powershell(given: readonly Word[]): Inner | undefined {
  const encoded = given.some((word) => /^[-/]e(?:nc?|ncodedcommand)?$/i.test(word.text));
  if (encoded)
    return { kind: "text", text: "", dialect: "powershell", own: dangerous("hides what it runs in an encoded text") };
  const inner = restText(given, /^[-/]c(?:ommand)?$/i, "powershell");
  if (inner !== undefined) return inner;
  const at = given.findIndex((word) => !word.text.startsWith("-"));
  const file = given.slice(0, Math.max(0, at)).some((word) => /^-f/i.test(word.text));
  return at >= 0 && !file ? joined(given.slice(at), "powershell") : undefined;
}

function joined(given: readonly Word[], dialect: Dialect): Inner | undefined {
  if (given.length === 0) return undefined;
  const dynamic = given.some((word) => word.dynamic);
  const own = dynamic ? dangerous("runs text that is only known when it runs") : undefined;
  return { kind: "text", text: given.map((word) => word.text).join(" "), dialect, own };
}

/** `env -S 'program words'`. */
function splitString(given: readonly Word[]): Inner | undefined {
  const [first, ...rest] = given;
  if (first === undefined) return undefined;
  const text = first.text.replace(/^(?:-S|--split-string=?)\s*/, "");
  return joined(text === "" ? rest : [{ ...first, text }, ...rest], "posix");
}

/** `trap 'commands' EXIT`, `alias name='commands'`. */
function definition(given: readonly Word[]): Inner | undefined {
  const text = given
    .map((word) => word.text.replace(ASSIGNMENT, ""))
    .filter((word) => word !== "-")
    .join(" ; ");
  return text === ""
    ? undefined
    : { kind: "text", text, dialect: "posix", own: changes("changes what this shell does later") };
}

/** All that `find` starts for what it finds. */
function executed(given: readonly Word[]): Inner | undefined {
  const groups: Word[][] = [];
  let open: Word[] | undefined;
  for (const word of given) {
    if (/^(?:-exec|-execdir|-ok|-okdir|-x|-X|--exec|--exec-batch)$/.test(word.text)) {
      open = [];
      groups.push(open);
    } else if (word.text === ";" || word.text === "+") open = undefined;
    else open?.push(word);
  }
  const [words, ...also] = groups;
  if (words === undefined) return undefined;
  // For every file found: a plain rm is as bad as a recursive one.
  const removes = groups.some((group) => /(?:^|\/)(?:rm|unlink|shred)$/.test(group[0]?.text ?? ""));
  return { kind: "words", words, also, own: removes ? dangerous("deletes every file that it finds") : undefined };
}

function code(language: string, given: readonly Word[]): Inner | undefined {
  const at = given.findIndex((word) => CODE.get(language)?.test(word.text));
  const word = given[at + 1];
  if (at < 0 || word === undefined) return undefined;
  const own = word.dynamic ? dangerous("runs text that is only known when it runs") : changes(`runs ${language} code`);
  return { kind: "code", text: word.text, own };
}

function carried(program: string, given: readonly Word[]): Inner | undefined {
  const inside = CONTAINERS.has(program) ? given.findIndex((word) => /^(?:exec|run|debug)$/.test(word.text)) : 0;
  if (inside < 0) return undefined;
  const at = given.findIndex(
    (word, place) => place >= inside && (WORTH_A_LOOK.test(word.text) || /\s/.test(word.text)),
  );
  if (at < 0) return undefined;
  const words = given.slice(at);
  if (REMOTE.has(program) || /\s/.test(words[0]?.text ?? "")) return joined(words, "posix");
  return { kind: "words", words, own: undefined };
}
