/** The editor's terminals: which one is idle and where it stands, and how a confirmed command gets into one. */

import * as vscode from "vscode";

const NAME = "AiCockpit";
const INTEGRATION_MS = 3000;

/** Knows which terminals are busy, as far as their shells tell. */
export class Terminals implements vscode.Disposable {
  readonly #busy = new Set<vscode.Terminal>();
  readonly #disposable: vscode.Disposable;

  constructor() {
    const { window } = vscode;
    this.#disposable = vscode.Disposable.from(
      window.onDidStartTerminalShellExecution(({ terminal }) => this.#busy.add(terminal)),
      window.onDidEndTerminalShellExecution(({ terminal }) => this.#busy.delete(terminal)),
      window.onDidCloseTerminal((terminal) => this.#busy.delete(terminal)),
    );
  }

  dispose(): void {
    this.#disposable.dispose();
  }

  /** The active terminal where its shell says that it waits at its prompt. */
  idle(): vscode.Terminal | undefined {
    const { activeTerminal } = vscode.window;
    if (activeTerminal?.shellIntegration === undefined || activeTerminal.exitStatus !== undefined) return undefined;
    return this.#busy.has(activeTerminal) ? undefined : activeTerminal;
  }

  /** Where a command would run now: the idle terminal's directory, else the folder of the active editor, else the first. */
  directory(): vscode.Uri | undefined {
    return this.idle()?.shellIntegration?.cwd ?? folderHere()?.uri;
  }

  /** The shell's name, as far as known. */
  shell(): string {
    return this.idle()?.state.shell ?? vscode.env.shell;
  }

  /** One that stands in this directory and is idle, else a new one. */
  for(directory: vscode.Uri | undefined): vscode.Terminal {
    const idle = this.idle();
    const cwd = idle?.shellIntegration?.cwd;
    const there = directory === undefined || cwd?.toString() === directory.toString();
    if (idle !== undefined && there) return idle;
    return vscode.window.createTerminal({ name: NAME, ...(directory !== undefined && { cwd: directory }) });
  }

  /** Runs a command that was confirmed. */
  async run(command: string, directory: vscode.Uri | undefined): Promise<void> {
    const terminal = this.for(directory);
    terminal.show();
    const integration = terminal.shellIntegration ?? (await integrated(terminal));
    if (integration === undefined) terminal.sendText(command, true);
    else integration.executeCommand(command);
  }

  /** Types it at the prompt, without the Enter. The caller has seen to it that it has no line break. */
  async insert(command: string, directory: vscode.Uri | undefined): Promise<void> {
    const terminal = this.for(directory);
    terminal.show();
    if (terminal.shellIntegration === undefined) await integrated(terminal);
    terminal.sendText(command, false);
  }
}

/** The folder that matters now; undefined: none is open. */
export function folderHere(): vscode.WorkspaceFolder | undefined {
  const active = vscode.window.activeTextEditor?.document.uri;
  const folder = active === undefined ? undefined : vscode.workspace.getWorkspaceFolder(active);
  return folder ?? vscode.workspace.workspaceFolders?.[0];
}

/** A new terminal's shell integration; undefined: this shell has none, or is slow to tell. */
function integrated(terminal: vscode.Terminal): Promise<vscode.TerminalShellIntegration | undefined> {
  return new Promise((resolve) => {
    const listener = vscode.window.onDidChangeTerminalShellIntegration((event) => {
      if (event.terminal === terminal) done(event.shellIntegration);
    });
    const timer = setTimeout(() => done(undefined), INTEGRATION_MS);
    function done(integration: vscode.TerminalShellIntegration | undefined): void {
      listener.dispose();
      clearTimeout(timer);
      resolve(integration);
    }
  });
}
