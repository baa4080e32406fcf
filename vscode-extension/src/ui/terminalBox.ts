/** The box in which a proposed command is looked at, edited and confirmed. */

import * as vscode from "vscode";
import { type Act, type Step, stepFor, underBox } from "../features/terminal/confirm";
import { toBox } from "../features/terminal/hidden";
import type { Dialect } from "../features/terminal/words";

const TITLE = "Run in the terminal";
const ECHOES = 500;

interface Button extends vscode.QuickInputButton {
  readonly act: Act | "back";
}

const BUTTONS: readonly Button[] = [
  { act: "insert", iconPath: new vscode.ThemeIcon("terminal"), tooltip: "Insert without running" },
  { act: "copy", iconPath: new vscode.ThemeIcon("copy"), tooltip: "Copy" },
];

/** What the user decided; undefined: Escape. */
export type Decision = { readonly step: Step; readonly shown: string } | "back" | undefined;

/** Shows commands while they are written, then waits for a decision. */
export class CommandBox implements vscode.Disposable {
  readonly #box = vscode.window.createInputBox();
  readonly #stop = new AbortController();
  readonly #written = new Set<string>();
  #decide: ((decision: Decision) => void) | undefined;
  #explanation = "";
  #ready = false;
  #touched = false;
  #disposed = false;

  /** `back`: there is a step before this one. */
  constructor(
    private readonly dialect: Dialect,
    back: boolean,
  ) {
    const box = this.#box;
    box.title = TITLE;
    box.ignoreFocusOut = true;
    box.buttons = [...(back ? [vscode.QuickInputButtons.Back] : []), ...BUTTONS];
    if (back) {
      box.step = 2;
      box.totalSteps = 2;
    }
    box.onDidChangeValue((value) => this.#edited(value));
    box.onDidAccept(() => this.#act("run"));
    box.onDidTriggerButton((button) => this.#pressed(button));
    box.onDidHide(() => this.#decided(undefined));
  }

  /** Aborts when the user leaves, or begins to edit: then nothing more is to be written into the box. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** Whether the user changed the text while it was being written. */
  get touched(): boolean {
    return this.#touched;
  }

  /** Before the answer is there. */
  waiting(prompt: string): void {
    this.#box.busy = true;
    this.#box.prompt = prompt;
    this.#box.show();
  }

  /** What has come so far. */
  draft(command: string): void {
    if (!this.#touched && !this.#disposed) this.#write(toBox(command));
  }

  /** Opens the box for a decision. Escape, and leaving it, decide nothing. */
  async decide(command: string | undefined, explanation: string): Promise<Decision> {
    if (this.#disposed) return undefined;
    if (command !== undefined && !this.#touched) this.#write(toBox(command));
    this.#ready = true;
    this.#box.busy = false;
    this.#explanation = explanation;
    this.#box.placeholder = "A command";
    this.#judge();
    this.#box.show();
    return new Promise((resolve) => {
      this.#decide = resolve;
    });
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#stop.abort();
    this.#box.dispose();
  }

  #write(shown: string): void {
    if (this.#written.size >= ECHOES) this.#written.clear();
    this.#written.add(shown);
    this.#box.value = shown;
    this.#judge();
  }

  #edited(value: string): void {
    // The editor also tells of what was written from here.
    if (!this.#ready && this.#written.has(value)) return;
    if (!this.#ready && !this.#touched) {
      this.#touched = true;
      this.#stop.abort();
    }
    this.#judge();
  }

  #judge(): void {
    const { severity, message } = underBox(this.#box.value, this.dialect, this.#explanation);
    const { Info, Warning } = vscode.InputBoxValidationSeverity;
    const told = this.#box.value === "" && !this.#ready;
    this.#box.validationMessage = told ? undefined : { message, severity: severity === "info" ? Info : Warning };
  }

  #pressed(button: vscode.QuickInputButton): void {
    if (button === vscode.QuickInputButtons.Back) this.#decided("back");
    const found = BUTTONS.find((one) => one.tooltip === button.tooltip);
    if (found !== undefined && found.act !== "back") this.#act(found.act);
  }

  #act(act: Act): void {
    if (!this.#ready) return; // half a command is none
    const step = stepFor(act, this.#box.value, this.dialect);
    if (step.do !== "nothing") this.#decided({ step, shown: this.#box.value });
  }

  #decided(decision: Decision): void {
    const decide = this.#decide;
    this.#decide = undefined;
    if (decide === undefined && decision === undefined) this.#stop.abort();
    decide?.(decision);
    this.dispose();
  }
}
