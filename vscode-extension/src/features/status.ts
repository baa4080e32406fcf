/** What the status bar says: one line, an icon, and the lines behind it. Pure; `ui/statusBar.ts` draws it. */

import { cachedShare, count, milliseconds, percent } from "./figures";
import type { ConnectionState, FolderStatus } from "./states";
import type { Trace } from "./timeline";

export interface StatusInput {
  /** For people: `http://127.0.0.1:8000`. */
  readonly address: string;
  readonly connection: ConnectionState;
  readonly folder: FolderStatus | undefined;
  /** The last completion that came to an end. */
  readonly last: Trace | undefined;
  /** The oldest request that is still under way. */
  readonly running: Trace | undefined;
  /** Milliseconds since the epoch. */
  readonly snoozedUntil: number | undefined;
  readonly trigger: "automatic" | "manual" | "off";
  /** Of the active editor. */
  readonly language: { readonly id: string; readonly on: boolean } | undefined;
  /** Milliseconds since the epoch. */
  readonly now: number;
}

export type Severity = "none" | "warning" | "error";

export interface StatusView {
  /** Which state this is, for tests and for the screen reader. */
  readonly kind: string;
  /** Without the icon. */
  readonly text: string;
  /** A codicon's name; `~spin` turns it. */
  readonly icon: string;
  /** Lines of Markdown. */
  readonly tooltip: readonly string[];
  readonly severity: Severity;
  /** Milliseconds until this could read otherwise without anything having happened. */
  readonly again: number | undefined;
}

const MINUTE_MS = 60_000;
/** A request that is quicker than this is not worth a turning wheel. */
const QUICK_MS = 400;
/** A trace that never ended says nothing any more. */
const LOST_MS = 120_000;

/** The state that matters most comes first: what keeps everything from working, then what the user chose, then warmth. */
export function statusOf(input: StatusInput): StatusView {
  const view = fault(input) ?? chosen(input) ?? working(input);
  return {
    ...view,
    text: `AiCockpit${view.text === "" ? "" : `: ${view.text}`}`,
    tooltip: [...view.tooltip, ...about(input)],
  };
}

type Draft = StatusView;

function draft(kind: string, text: string, icon: string, why: readonly string[], more: Partial<Draft> = {}): Draft {
  return {
    kind,
    text,
    icon,
    tooltip: [`**${headOf(text)}**`, ...why.filter((line) => line !== "")],
    severity: "none",
    again: undefined,
    ...more,
  };
}

function headOf(text: string): string {
  return text === "" ? "AiCockpit" : `AiCockpit: ${text}`;
}

function fault(input: StatusInput): Draft | undefined {
  const { connection } = input;
  switch (connection.kind) {
    case "no_key":
      return draft("no_key", "set up", "key", ["No key is stored for this server. Click to set up."], {
        severity: "warning",
      });
    case "unauthorized":
      return draft("unauthorized", "unauthorised", "lock", [plain(connection.why), "Click to enter another key."], {
        severity: "error",
      });
    case "offline":
      return draft("offline", "offline", "debug-disconnect", [plain(connection.why), plain(connection.fix)], {
        severity: "error",
      });
    case "no_model":
      return draft("no_model", "no model", "warning", [plain(connection.why)], { severity: "warning" });
    case "unknown":
      return draft("loading", "connecting", "loading~spin", ["Asking the server what it has."]);
    case "ready":
      return undefined;
  }
}

function chosen(input: StatusInput): Draft | undefined {
  const { snoozedUntil, now, language, trigger } = input;
  if (snoozedUntil !== undefined && snoozedUntil > now) {
    const left = snoozedUntil - now;
    if (!Number.isFinite(left))
      return draft("snoozed", "snoozed", "bell-slash", ["No completions until the editor starts again."]);
    const again = left % MINUTE_MS || MINUTE_MS;
    return draft(
      "snoozed",
      `snoozed ${Math.ceil(left / MINUTE_MS)} min`,
      "bell-slash",
      ["No completions until then."],
      { again },
    );
  }
  if (trigger === "off") return draft("off", "off", "circle-slash", ["Completion is switched off in the settings."]);
  if (language !== undefined && !language.on) {
    return draft("off_here", `off for ${language.id}`, "circle-slash", ["Completion is off for this language."]);
  }
  return undefined;
}

function working(input: StatusInput): Draft {
  const { folder } = input;
  const busy = runningIcon(input);
  const figures = figuresOf(input.last);
  const beside = (text: string) => [text, figures].filter((part) => part !== "").join(" ");
  const more: Partial<Draft> = busy === undefined ? {} : { again: busy.again };
  const icon = (still: string) => (busy?.turns ? "loading~spin" : still);
  switch (folder?.state) {
    case "failed":
      return draft("failed", beside("sync failed"), icon("warning"), [plain(folder.why)], {
        ...more,
        severity: "warning",
      });
    case "syncing":
      return draft("syncing", `sending ${percent(folder.sent)}`.trim(), "sync~spin", [plain(folder.why)], more);
    case "warming":
      return draft("warming", `warming ${percent(folder.warm)}`.trim(), "sync~spin", [plain(folder.why)], more);
    case "warm":
      return draft("warm", beside("warm"), icon("flame"), [plain(folder.why)], more);
    case "cold":
      return draft("cold", beside("cold"), icon("circle-outline"), [plain(folder.why)], more);
    default: {
      const manual = input.trigger === "manual" ? ["Completion comes only when you ask for it."] : [];
      return draft("ready", beside("ready"), icon("check"), manual, more);
    }
  }
}

/** `84 ms 97 %`: of the last completion; `≈97 %` where the server expected it and nobody counted. */
function figuresOf(last: Trace | undefined): string {
  if (last === undefined) return "";
  const ms = last.shownMs ?? last.lastTokenMs;
  return [ms === undefined ? "" : milliseconds(ms), shareOf(last)].filter((part) => part !== "").join(" ");
}

function shareOf({ usage, expected }: Trace): string {
  const counted = cachedShare(usage);
  if (counted !== undefined) return percent(counted);
  return expected === undefined || expected.prompt <= 0 ? "" : `≈${percent(expected.cached / expected.prompt)}`;
}

function runningIcon(input: StatusInput): { readonly turns: boolean; readonly again: number | undefined } | undefined {
  const { running, now } = input;
  if (running === undefined) return undefined;
  const age = now - running.at;
  if (age > LOST_MS) return undefined;
  // Chat and edits take a while by nature; completions are as a rule over before a wheel would be seen.
  const turns = running.feature !== "completion" || age >= QUICK_MS;
  return { turns, again: turns ? LOST_MS - age + 1 : QUICK_MS - age };
}

function about(input: StatusInput): readonly string[] {
  const { connection, folder, last, address } = input;
  const lines = [`Server: ${code(address)}`];
  if (connection.kind === "ready") {
    const models = connection.models
      .slice(0, 5)
      .map((model) => `${code(model.id)}${model.role === undefined ? "" : ` (${plain(model.role)})`}`);
    const rest = connection.models.length - models.length;
    lines.push(`Models: ${models.join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`);
  }
  if (folder === undefined) lines.push("Folder: not kept warm");
  else lines.push(`Folder: ${code(folder.name)}${connection.kind === "ready" ? `, ${warmthOf(folder)}` : ""}`);
  if (last !== undefined) lines.push(lastLine(last));
  return lines;
}

const STATES: Readonly<Record<FolderStatus["state"], string>> = {
  syncing: "being sent",
  cold: "cold",
  warming: "warming",
  warm: "warm",
  off: "not kept warm",
  failed: "not warm",
};

function warmthOf({ state, warm }: FolderStatus): string {
  return warm === undefined ? STATES[state] : `${STATES[state]} (${percent(warm)})`;
}

function lastLine(last: Trace): string {
  const figures = figuresOf(last);
  const tokens = tokensIn(last);
  const why = last.why === "" ? "" : `: ${plain(last.why)}`;
  return `Last completion: ${plain(last.outcome)}${figures === "" ? "" : ` (${figures})`}${tokens}${why}`;
}

function tokensIn({ usage, expected }: Trace): string {
  if (usage?.cached !== undefined)
    return `, ${count(usage.cached)} of ${count(usage.prompt)} prompt tokens were cached`;
  if (usage !== undefined || expected === undefined) return "";
  return `, the server expected ${count(expected.cached)} of about ${count(expected.prompt)} prompt tokens to be cached`;
}

/** The newest completion that was shown, else the newest that ended. */
export function lastCompletion(newestFirst: readonly Trace[]): Trace | undefined {
  const ended = newestFirst.filter((trace) => trace.feature === "completion" && trace.outcome !== "running");
  return ended.find((trace) => trace.shownMs !== undefined) ?? ended[0];
}

/** The oldest request that is still under way; one that never ended is none. */
export function runningTrace(newestFirst: readonly Trace[], now: number): Trace | undefined {
  return newestFirst.findLast((trace) => trace.outcome === "running" && now - trace.at <= LOST_MS);
}

/** Text from elsewhere, so that Markdown shows it as it is. */
function plain(text: string): string {
  return text
    .replace(/\s+/g, " ")
    .trim()
    .slice(0, 300)
    .replace(/[\\`*_{}[\]<>()#|~!$]/g, "\\$&");
}

function code(text: string): string {
  return `\`${text.replace(/[`\n\r]/g, "'").slice(0, 120)}\``;
}

/** What is on the screen, and since when (milliseconds). */
export interface Settled {
  readonly view: StatusView;
  readonly since: number;
}

const KEPT_MS = 300;

/** Whether the new view may be shown now. Each stays for at least 300 ms, so that nothing flickers; the last one always comes.
 * `again`: milliseconds after which to ask once more with what is true then. */
export function settle(
  shown: Settled | undefined,
  next: StatusView,
  now: number,
): { readonly shown: Settled; readonly again: number | undefined } {
  if (shown === undefined) return { shown: { view: next, since: now }, again: next.again };
  if (sameLook(shown.view, next)) return { shown: { view: next, since: shown.since }, again: next.again };
  const age = now - shown.since;
  if (age >= 0 && age < KEPT_MS) return { shown, again: KEPT_MS - age };
  return { shown: { view: next, since: now }, again: next.again };
}

function sameLook(one: StatusView, other: StatusView): boolean {
  return one.text === other.text && one.icon === other.icon && one.severity === other.severity;
}
