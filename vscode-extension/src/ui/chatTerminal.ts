/** What the terminals printed: through shell integration, else what is selected in the terminal. */

import * as vscode from "vscode";
import { lastLines, type Ran, Terminals } from "../context/terminal";

export class ChatTerminal implements vscode.Disposable {
  readonly #terminals = new Terminals();
  readonly #disposables: vscode.Disposable[] = [];
  readonly #watched = new Map<vscode.TerminalShellExecution, ReturnType<Terminals["begin"]>>();

  constructor() {
    this.#disposables.push(
      vscode.window.onDidStartTerminalShellExecution(({ execution }) => {
        const watched = this.#terminals.begin(execution.commandLine.value);
        this.#watched.set(execution, watched);
        void this.#read(execution, watched);
      }),
      vscode.window.onDidEndTerminalShellExecution(({ execution, exitCode }) => {
        this.#watched.get(execution)?.end(exitCode);
        this.#watched.delete(execution);
      }),
    );
  }

  dispose(): void {
    vscode.Disposable.from(...this.#disposables).dispose();
  }

  /** Newest first. */
  all(): readonly Ran[] {
    return this.#terminals.all();
  }

  get(number: number): Ran | undefined {
    return this.#terminals.get(number);
  }

  async #read(execution: vscode.TerminalShellExecution, watched: ReturnType<Terminals["begin"]>): Promise<void> {
    try {
      for await (const data of execution.read()) watched.add(data);
    } catch {
      // The terminal was closed: what was read until then is there.
    }
  }

  selection(): Promise<string | undefined> {
    return this.#copied("workbench.action.terminal.copySelection");
  }

  /** Of the newest command, where the stream that the editor gives missed it: it does with commands that end at once. */
  async lastOutput(ran: Ran): Promise<Ran> {
    if (ran.output !== "" || ran.exitCode === undefined || ran.number !== this.#terminals.all()[0]?.number) return ran;
    return { ...ran, output: (await this.#copied("workbench.action.terminal.copyLastCommandOutput")) ?? "" };
  }

  /**
   * What is in the terminal. There is no call for it but the clipboard's: it is put back, and left alone where it may hold
   * something that is no text, or where a browser would ask.
   */
  async #copied(command: string): Promise<string | undefined> {
    if (vscode.window.activeTerminal === undefined || vscode.env.uiKind === vscode.UIKind.Web) return undefined;
    const before = await vscode.env.clipboard.readText();
    if (before === "") return undefined;
    try {
      await vscode.commands.executeCommand(command);
      const text = await vscode.env.clipboard.readText();
      return text === before || text.trim() === "" ? undefined : lastLines(text);
    } finally {
      await vscode.env.clipboard.writeText(before);
    }
  }
}
