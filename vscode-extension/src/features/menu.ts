/** What a click on the status bar offers: how things stand, then what can be done about it. */

import { type StatusInput, type StatusView, statusOf } from "./status";

/** One row. A row without a command only tells. */
export interface MenuRow {
  readonly label: string;
  readonly detail?: string;
  /** A codicon's name. */
  readonly icon?: string;
  readonly command?: string;
  /** A heading between rows. */
  readonly separator?: boolean;
}

/** What is wrong comes with its remedy on top. */
export function menuRows(input: StatusInput): readonly MenuRow[] {
  const view = statusOf(input);
  const remedies = remediesFor(input, view);
  const taken = new Set(remedies.map((row) => row.command));
  const actions = actionsFor(input).filter((row) => !taken.has(row.command));
  return [
    { label: "How it stands", separator: true },
    ...stateRows(view),
    ...(remedies.length > 0 ? [{ label: "To do", separator: true }, ...remedies] : []),
    { label: "Actions", separator: true },
    ...actions,
  ];
}

function stateRows(view: StatusView): readonly MenuRow[] {
  const icon = view.icon.replace("~spin", "");
  const [head = "", ...lines] = view.tooltip.map(asText);
  return [{ label: head, icon, command: "aicockpit.panel" }, ...lines.map((line) => ({ label: line }))];
}

function remediesFor(input: StatusInput, view: StatusView): readonly MenuRow[] {
  switch (view.kind) {
    case "no_key":
      return [SET_UP];
    case "unauthorized":
      return [{ label: "Enter the key", icon: "key", command: "aicockpit.setKey" }, SET_UP];
    case "offline":
    case "no_model":
      return [CHECK, SET_UP];
    case "snoozed":
      return [{ label: "End snooze", icon: "bell", command: "aicockpit.completion.wake" }];
    case "off_here":
      return [toggle(input)].filter((row) => row !== undefined);
    case "failed":
      return [{ label: "Try again to keep this folder warm", icon: "flame", command: "aicockpit.workspace.sync" }];
    default:
      return [];
  }
}

const SET_UP: MenuRow = { label: "Set up: address and key", icon: "settings-gear", command: "aicockpit.setUp" };
const CHECK: MenuRow = { label: "Check the connection", icon: "pulse", command: "aicockpit.check" };

function toggle(input: StatusInput): MenuRow | undefined {
  const { language } = input;
  if (language === undefined) return undefined;
  const label = language.on ? `Switch completion off for ${language.id}` : `Switch completion on for ${language.id}`;
  return { label, icon: language.on ? "circle-slash" : "check", command: "aicockpit.completion.toggleLanguage" };
}

function actionsFor(input: StatusInput): readonly MenuRow[] {
  const { folder, snoozedUntil, now } = input;
  const snoozed = snoozedUntil !== undefined && snoozedUntil > now;
  const rows: readonly (MenuRow | undefined)[] = [
    {
      label: "Why slow, why nothing",
      detail: "Every request, step by step",
      icon: "graph",
      command: "aicockpit.panel",
    },
    { label: "Open the chat", icon: "comment-discussion", command: "aicockpit.chat.open" },
    { label: "Describe a terminal command", icon: "terminal", command: "aicockpit.terminal.describe" },
    snoozed ? undefined : { label: "Snooze completions", icon: "bell-slash", command: "aicockpit.completion.snooze" },
    toggle(input),
    folder === undefined || folder.state === "off"
      ? { label: "Keep this folder warm", icon: "flame", command: "aicockpit.workspace.sync" }
      : { label: `Stop keeping ${folder.name} warm`, icon: "circle-slash", command: "aicockpit.workspace.stop" },
    { label: "Documentation for @docs", icon: "book", command: "aicockpit.docs.manage" },
    CHECK,
    SET_UP,
    { label: "Show the log", icon: "output", command: "aicockpit.log" },
  ];
  return rows.filter((row) => row !== undefined);
}

/** A tooltip's Markdown without its marks. */
function asText(line: string): string {
  return line.replace(/\*\*|`/g, "").replace(/\\(.)/g, "$1");
}
