/** The status bar's item: draws what `features/status.ts` says, never more often than it allows. */

import * as vscode from "vscode";
import { isOn } from "../features/completion/permission";
import type { SnoozeState } from "../features/completion/snooze";
import { Expectations } from "../features/expected";
import {
  lastCompletion,
  runningTrace,
  type Settled,
  type Severity,
  type StatusInput,
  settle,
  statusOf,
} from "../features/status";
import { openMenu } from "./menu";
import type { Services } from "./services";

type Snooze = Pick<SnoozeState, "snoozedUntil" | "onChange">;

const SOONEST_MS = 20;

export function register(services: Services, snooze: Snooze): vscode.Disposable {
  const bar = new StatusBar(services, snooze);
  const look = () => bar.look();
  return vscode.Disposable.from(
    bar,
    new Expectations(services.timeline, (id) => services.connection.gateway.account(id)),
    services.connection.onChange(look),
    services.folders.onChange(look),
    services.timeline.onChange(look),
    services.config.onChange(look),
    snooze.onChange(look),
    vscode.window.onDidChangeActiveTextEditor(look),
    vscode.commands.registerCommand("aicockpit.menu", () => openMenu(inputOf(services, snooze))),
  );
}

class StatusBar implements vscode.Disposable {
  readonly #item = vscode.window.createStatusBarItem("status", vscode.StatusBarAlignment.Right, 100);
  #shown: Settled | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #soon: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly services: Services,
    private readonly snooze: Snooze,
  ) {
    this.#item.name = "AiCockpit";
    this.#item.command = "aicockpit.menu";
    this.#look();
    this.#item.show();
  }

  /** Look again soon: what changes within the same moment is drawn once. */
  look(): void {
    this.#soon ??= setTimeout(() => this.#look(), SOONEST_MS);
  }

  dispose(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#soon);
    this.#item.dispose();
  }

  #look(): void {
    clearTimeout(this.#soon);
    clearTimeout(this.#timer);
    this.#soon = undefined;
    const now = Date.now();
    const { shown, again } = settle(this.#shown, statusOf(inputOf(this.services, this.snooze)), now);
    if (shown.view !== this.#shown?.view) this.#draw(shown);
    this.#shown = shown;
    this.#timer = again === undefined ? undefined : setTimeout(() => this.#look(), Math.max(SOONEST_MS, again));
  }

  #draw({ view }: Settled): void {
    const old = this.#shown?.view;
    const text = `$(${view.icon}) ${view.text}`;
    if (this.#item.text !== text) this.#item.text = text;
    if (old?.tooltip.join() !== view.tooltip.join()) {
      this.#item.tooltip = new vscode.MarkdownString(view.tooltip.join("\n\n"));
      this.#item.accessibilityInformation = { label: view.text, role: "button" };
    }
    if (old?.severity !== view.severity) this.#item.backgroundColor = colour(view.severity);
  }
}

function colour(severity: Severity): vscode.ThemeColor | undefined {
  return severity === "none" ? undefined : new vscode.ThemeColor(`statusBarItem.${severity}Background`);
}

function inputOf(services: Services, snooze: Snooze): StatusInput {
  const { connection, folders, timeline, config } = services;
  const now = Date.now();
  const traces = timeline.all();
  return {
    address: connection.gateway.address,
    connection: connection.state,
    folder: folders.status(),
    last: lastCompletion(traces),
    running: runningTrace(traces, now),
    snoozedUntil: snooze.snoozedUntil,
    trigger: config.trigger,
    language: languageHere(config.languages),
    now,
  };
}

function languageHere(languages: Readonly<Record<string, boolean>>): StatusInput["language"] {
  const document = vscode.window.activeTextEditor?.document;
  if (document === undefined || (document.uri.scheme !== "file" && document.uri.scheme !== "untitled"))
    return undefined;
  const id = document.languageId;
  return { id, on: isOn(languages, id) };
}
