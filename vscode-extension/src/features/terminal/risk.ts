/** Says of a shell command line, without running it, how much it may do: see `golden/terminal/risk.txt` for what comes out. */

import { DOERS, judgeByPrefix } from "./doers";
import { hiddenIn, toBox } from "./hidden";
import { secretIn, short, writingTo } from "./paths";
import { readLine } from "./reader";
import { GUARDED, isReader } from "./readers";
import { Arguments, changes, compareLevels, dangerous, type Level, SAFE, type Verdict } from "./verdict";
import type { Dialect, Simple, Word } from "./words";
import { doesMore, innerOf, languageOf, readsProgram, SHELLS } from "./wrappers";

/** One thing to know of a command. */
export interface Finding {
  readonly level: Level;
  /** In words, to follow "it". */
  readonly reason: string;
  /** The part of the command that it is about, hidden characters shown. */
  readonly part: string;
}

/** `findings`: the worst first; empty for a safe command. */
export interface Risk {
  readonly level: Level;
  readonly findings: readonly Finding[];
}

// Nobody reads through a longer one before confirming it.
const LONGEST = 20_000;
const DEEPEST = 5;
const WRAPPED = 8;
const KEPT = 12;
const UNKNOWN_TEXT = "text that is only known when it runs";

const ASSIGNMENT = /^[A-Za-z_]\w*\+?=/;
const STEERS =
  /^(?:LD_PRELOAD|LD_LIBRARY_PATH|DYLD_\w+|PATH|BASH_ENV|ENV|IFS|PROMPT_COMMAND|PAGER|GIT_\w+|EDITOR|VISUAL|PYTHONPATH|NODE_OPTIONS|PERL5OPT|RUBYOPT|LESSOPEN|MANPAGER|BROWSER)\+?=/;
const KNOWN_VARIABLES = /^\$\{?(?:EDITOR|VISUAL|PAGER|SHELL|BROWSER|PYTHON|CC|CXX|MAKE)\}?$/;
const CODE_DANGERS =
  /\brm\s+-\w*[rf]|rmtree|\bunlink|\bremovedirs|os\.remove|rmSync|rmdirSync|fs\.rm\b|rm_rf|FileUtils\.rm|delete_tree|mkfs|\/dev\/(?:sd|nvme|tcp)|os\.system|subprocess|child_process|\bsystem\s*\(|\bexec\w*\s*\(|\bpopen|shell_exec|\beval\s*\(|do shell script|socket\.connect|pty\.spawn/i;
const SQL =
  /^(?:psql|mysql|mariadb|sqlite3?|sqlcmd|cqlsh|clickhouse(?:-client)?|duckdb|usql|pgcli|mycli|mongo(?:sh)?|sqlplus|invoke-sqlcmd|bq)$/;
const SQL_DANGERS =
  /\b(?:drop\s+(?:table|database|schema|user|role|view|index|keyspace|collection)|truncate\s+(?:table\s+)?\w|dropDatabase|deleteMany\(\s*\{\s*\}|\.drop\(|delete\s+from\s+[\w."`]{1,80}\s*(?:;|["']|$))/i;
const SENDERS = new Set(
  "curl wget http https xh nc ncat netcat socat telnet ftp sftp scp lftp rclone ssh mail sendmail mutt invoke-webrequest iwr invoke-restmethod irm dig nslookup gsutil s3cmd".split(
    " ",
  ),
);
const FETCHERS = new Set(
  "curl wget http https xh aria2c invoke-webrequest iwr invoke-restmethod irm fetch lynx".split(" "),
);
const TELLS_ALL = new Set(["env", "printenv", "export", "set", "history", "get-childitem"]);

/** The risk of a command line. Linear in its length; never throws. Unknown programs are `changes`. */
export function classify(command: string, dialect: Dialect = "posix"): Risk {
  const judging = new Judging();
  for (const { what, part } of hiddenIn(command)) judging.add(dangerous(`holds ${what}`), part);
  if (command.length > LONGEST) judging.add(dangerous("is too long to be judged"), "");
  else if (command.trim() !== "") judging.text(command, dialect, 0);
  return judging.risk();
}

/** How the words of this shell are to be read. `shell`: its name or path. */
export function dialectOf(shell: string): Dialect {
  const name = programOf(shell, "powershell");
  if (name === "pwsh" || name === "powershell") return "powershell";
  return name === "cmd" ? "cmd" : "posix";
}

/** One line that says the class and the worst reason. */
export function headline(risk: Risk): string {
  const worst = risk.findings[0];
  if (worst === undefined) return "Safe: it only reads.";
  const more = risk.findings.filter((finding) => finding.level === risk.level).length - 1;
  const part = worst.part === "" ? "" : `: ${short(worst.part)}`;
  const others = more > 0 ? ` (and ${more} more)` : "";
  return `${risk.level === "dangerous" ? "Dangerous" : "Changes something"}: it ${worst.reason}${part}${others}`;
}

class Judging {
  readonly #findings = new Map<string, Finding>();

  add(verdict: Verdict, part: string): void {
    if (verdict.level === "safe") return;
    const known = this.#findings.get(verdict.reason);
    if (known !== undefined || this.#findings.size >= KEPT * 4) {
      if (known !== undefined || verdict.level !== "dangerous") return;
      const mild = [...this.#findings.values()].find((finding) => finding.level !== "dangerous");
      if (mild === undefined) return;
      this.#findings.delete(mild.reason);
    }
    this.#findings.set(verdict.reason, { level: verdict.level, reason: verdict.reason, part: shown(part) });
  }

  risk(): Risk {
    const findings = [...this.#findings.values()].sort((one, other) => compareLevels(other.level, one.level));
    return { level: findings[0]?.level ?? "safe", findings: findings.slice(0, KEPT) };
  }

  text(text: string, dialect: Dialect, depth: number): void {
    const line = readLine(text, dialect);
    if (line.unread !== "") {
      this.add(
        line.unread.startsWith("too")
          ? dangerous(`is ${line.unread} to be judged`)
          : changes(`is not complete: ${line.unread}`),
        "",
      );
    }
    if (line.repeats) this.add(dangerous("repeats an earlier command that is not shown here"), text);
    const around: Around = { text, dialect, depth, functions: new Set(line.functions) };
    const pipelines = new Map<number, Real[]>();
    const real = line.commands.map((simple) => realProgram(simple, dialect));
    for (const one of real) {
      const { simple } = one;
      const part = text.slice(simple.start, simple.end);
      if (simple.comment) {
        if (this.#dangerIn(simple, part, around))
          this.add(dangerous("runs what stands behind a #, in some shells"), part);
        continue;
      }
      this.#simple(simple, part, around);
      const pipeline = pipelines.get(simple.pipeline);
      if (pipeline === undefined) pipelines.set(simple.pipeline, [one]);
      else pipeline.push(one);
    }
    const fetches = real.some((one) => FETCHERS.has(one.program));
    for (const pipeline of pipelines.values()) this.#pipeline(pipeline, fetches, around);
    this.#secrets(real, around);
  }

  #dangerIn(simple: Simple, part: string, around: Around): boolean {
    const apart = new Judging();
    apart.#simple({ ...simple, comment: false }, part, around);
    return apart.risk().level === "dangerous";
  }

  #simple(simple: Simple, part: string, around: Around): void {
    for (const { operator, target } of simple.redirects) {
      if (operator.startsWith("<") && operator !== "<>") continue;
      this.add(writingTo(target, operator.endsWith(">>")), part);
    }
    this.#words(simple.words, part, around);
  }

  #words(all: readonly Word[], part: string, around: Around): void {
    let words = all;
    for (let wraps = 0; ; wraps++) {
      if (wraps > WRAPPED) return void this.add(dangerous("is too deeply nested to be judged"), part);
      words = this.#assigned(words, part);
      const first = words[0];
      if (first === undefined || isMark(first)) return;
      const program = programOf(first.text, around.dialect);
      if (around.functions.has(program)) return;
      if (around.dialect === "powershell" && wraps === 0 && /^[$[@]/.test(first.text)) {
        if (/^[+-]?=$/.test(words[1]?.text ?? "")) {
          words = words.slice(2);
          continue;
        }
        if (/::|\.\w+\s*$|\(/.test(part)) this.add(changes("calls methods that are not known to only read"), part);
        return;
      }
      if (isUnknowable(first))
        return void this.add(dangerous("runs a program whose name is only known when it runs"), part);
      const inner = innerOf(program, words);
      if (inner?.kind !== "words" || doesMore(program)) {
        this.add(this.#program(program, words.slice(1), inner !== undefined, around.dialect), part);
      }
      if (inner === undefined) return;
      if (inner.own !== undefined) this.add(inner.own, part);
      if (inner.kind === "code") {
        if (CODE_DANGERS.test(inner.text))
          this.add(dangerous("runs code that deletes, or that starts other programs"), part);
        return;
      }
      if (inner.kind === "text") {
        if (around.depth >= DEEPEST) return void this.add(dangerous("is too deeply nested to be judged"), part);
        return void this.text(inner.text, inner.dialect, around.depth + 1);
      }
      for (const also of inner.also ?? []) this.#words(also, part, around);
      words = inner.words;
      const removes =
        program === "xargs" &&
        /^(?:rm|unlink|shred|del|ri|remove-item)$/.test(programOf(words[0]?.text ?? "", around.dialect));
      if (removes) this.add(dangerous("deletes every file that it is handed"), part);
    }
  }

  /** Takes `NAME=value` from the front. */
  #assigned(words: readonly Word[], part: string): readonly Word[] {
    let at = 0;
    for (; at < words.length && ASSIGNMENT.test(words[at]?.text ?? ""); at++) {
      if (STEERS.test(words[at]?.text ?? ""))
        this.add(changes("sets a variable that decides what other programs do"), part);
    }
    return at === 0 ? words : words.slice(at);
  }

  #program(program: string, given: readonly Word[], runsOther: boolean, dialect: Dialect): Verdict {
    const options = new Arguments(given);
    if (isReader(program, dialect)) return options.begins("--pager") ? changes("runs a program of its own") : SAFE;
    const guarded = Object.hasOwn(GUARDED, program) ? GUARDED[program] : undefined;
    const judge = guarded ?? DOERS.get(program);
    if (judge !== undefined) return judge(options, program);
    const onlyAsks = given.length === 1 && /^(?:--version|-V|--help|-version|version)$/.test(given[0]?.text ?? "");
    if (onlyAsks) return SAFE;
    if (runsOther && SHELLS.has(program)) return SAFE;
    if (SHELLS.has(program) || languageOf(program) !== undefined) {
      return changes(options.operands.length > 0 ? "runs a script" : `starts ${program}`);
    }
    return judgeByPrefix(program) ?? changes(`runs ${short(program)}, which is not known to only read`);
  }

  /** What only the commands of a pipe together do. `fetches`: the line holds a download. */
  #pipeline(pipeline: readonly Real[], fetches: boolean, around: Around): void {
    const part = around.text.slice(pipeline[0]?.simple.start, pipeline.at(-1)?.simple.end);
    let before = "";
    let sql = false;
    for (const { simple, program, given } of pipeline) {
      const runs = SHELLS.has(program) || languageOf(program) !== undefined;
      const input = simple.piped || simple.redirects.some((one) => one.operator.startsWith("<"));
      const handed = runs && given.some((word) => word.dynamic && /^[<>]\(/.test(word.text));
      if (handed || (input && readsProgram(program, given))) {
        this.add(dangerous(`runs ${fetches ? "a program straight from the network" : UNKNOWN_TEXT}`), part);
      }
      sql ||= SQL.test(program);
      const again = around.functions.has(program) && (program === before || (simple.background && simple.depth > 1));
      if (again)
        this.add(dangerous("starts itself again and again until the machine stops (a fork bomb)"), around.text);
      before = program;
    }
    if (sql && SQL_DANGERS.test(part)) this.add(dangerous("deletes data from a database"), part);
  }

  /** A secret that is named in a line that also sends something. */
  #secrets(commands: readonly Real[], around: Around): void {
    const sender = commands.find(isSender)?.simple;
    if (sender === undefined) return;
    for (const { simple, program, given } of commands) {
      const raw = around.text.slice(simple.start, simple.end).replace(/(?:^|\s)-[iF]\s+\S+/g, " ");
      const tells = TELLS_ALL.has(program) && given.length === 0 && simple.pipeline === sender.pipeline;
      const secret = tells ? "every variable or the history" : secretIn(raw.trim());
      if (secret !== undefined) {
        return void this.add(
          dangerous(`sends ${secret} to another machine`),
          around.text.slice(sender.start, sender.end),
        );
      }
    }
  }
}

interface Around {
  readonly text: string;
  readonly dialect: Dialect;
  readonly depth: number;
  readonly functions: ReadonlySet<string>;
}

/** A command, and the program that `sudo`, `env` and their like start there. */
interface Real {
  readonly simple: Simple;
  readonly program: string;
  readonly given: readonly Word[];
}

/** A program's name without its path and its ending; lower case, as two of the three shells take it. */
function programOf(text: string, dialect: Dialect): string {
  const cut = dialect === "posix" ? text.lastIndexOf("/") : Math.max(text.lastIndexOf("/"), text.lastIndexOf("\\"));
  const name = cut >= 0 && cut < text.length - 1 ? text.slice(cut + 1) : text;
  return name
    .slice(0, 200)
    .toLowerCase()
    .replace(/^=/, "") // what zsh looks up for itself
    .replace(/\.(?:exe|cmd|bat|com|ps1)$/, "");
}

function realProgram(simple: Simple, dialect: Dialect): Real {
  let words = simple.words;
  for (let wraps = 0; wraps <= WRAPPED; wraps++) {
    const at = words.findIndex((word) => !ASSIGNMENT.test(word.text));
    words = at > 0 ? words.slice(at) : words;
    const program = programOf(words[0]?.text ?? "", dialect);
    const inner = innerOf(program, words);
    if (inner?.kind !== "words" || inner.words.length === 0) return { simple, program, given: words.slice(1) };
    words = inner.words;
  }
  return { simple, program: "", given: [] };
}

function isSender({ simple, program, given }: Real): boolean {
  if (simple.redirects.some((one) => /^\/dev\/(?:tcp|udp)\//.test(one.target.text))) return true;
  if (program === "rsync" || program === "rcp") return given.some((word) => /^[^/]*:/.test(word.text));
  if (program === "aws" || program === "gcloud" || program === "az")
    return given.some((word) => /^(?:s3:|gs:|cp|sync|upload)/.test(word.text));
  return SENDERS.has(program);
}

/** Words that are no program: closing brackets, comment signs. */
function isMark(word: Word): boolean {
  return word.text === "" || (!word.quoted && /^(?:[{}()]|#.*|;;|\]\]?)$/s.test(word.text));
}

function isUnknowable(word: Word): boolean {
  if (word.glob && word.text !== "[" && word.text !== "[[") return true;
  if (!word.dynamic || KNOWN_VARIABLES.test(word.text)) return false;
  const tail = word.text.slice(word.text.lastIndexOf("/") + 1);
  return !word.text.includes("/") || tail === "" || /[$()<>]/.test(tail);
}

function shown(part: string): string {
  const visible = toBox(part.trim().slice(0, 400));
  return visible.length <= 120 ? visible : `${visible.slice(0, 119)}…`;
}
