/** A command from a description: asked for, shown with its risk, edited, confirmed, run. Nothing runs by itself. */

import * as vscode from "vscode";
import { Fault, isAbort } from "../api/fault";
import { noModel } from "../api/pick";
import { remember, restored } from "../features/history";
import { choicesFor } from "../features/terminal/descriptions";
import { fromBox } from "../features/terminal/hidden";
import type { Surroundings } from "../features/terminal/prompt";
import { propose } from "../features/terminal/propose";
import { dialectOf } from "../features/terminal/risk";
import type { Trace } from "../features/timeline";
import { choose, complain, inform } from "./say";
import type { Services } from "./services";
import { CommandBox, type Decision } from "./terminalBox";
import { folderHere, Terminals } from "./terminals";

const HISTORY = "aicockpit.terminal.descriptions";

export function register(services: Services): vscode.Disposable {
  const terminals = new Terminals();
  const { registerCommand } = vscode.commands;
  return vscode.Disposable.from(
    terminals,
    registerCommand("aicockpit.terminal.describe", (given?: unknown) =>
      describe(services, terminals, typeof given === "string" ? given : ""),
    ),
    registerCommand("aicockpit.terminal.propose", (given?: unknown) => confirm(services, terminals, commandOf(given))),
  );
}

function commandOf(given: unknown): string {
  if (typeof given === "string") return given;
  if (typeof given === "object" && given !== null && "command" in given && typeof given.command === "string")
    return given.command;
  return "";
}

/** Both steps, as often as the user goes back. What was typed is kept over an error. */
async function describe(services: Services, terminals: Terminals, given: string): Promise<void> {
  let typed = given;
  for (;;) {
    const description = await askDescription(services, typed);
    if (description === undefined) return;
    typed = description;
    await services.context.globalState.update(HISTORY, remember(history(services), description));
    const outcome = await answer(services, terminals, description);
    if (outcome !== "back") return;
  }
}

function history(services: Services): readonly string[] {
  return restored(services.context.globalState.get(HISTORY));
}

async function askDescription(services: Services, typed: string): Promise<string | undefined> {
  const pick = vscode.window.createQuickPick<vscode.QuickPickItem & { readonly asks: string }>();
  const rows = (value: string) => {
    pick.items = choicesFor(history(services), value).map((choice) => ({
      label: choice.label,
      asks: choice.description,
      alwaysShow: true,
      iconPath: new vscode.ThemeIcon(choice.typed ? "sparkle" : "history"),
    }));
  };
  pick.title = "Describe a terminal command";
  pick.placeholder = "What should it do? For example: list the ten largest files";
  pick.step = 1;
  pick.totalSteps = 2;
  pick.ignoreFocusOut = true;
  pick.value = typed;
  rows(typed);
  pick.onDidChangeValue(rows);
  try {
    return await new Promise<string | undefined>((resolve) => {
      pick.onDidHide(() => resolve(undefined));
      pick.onDidAccept(() => {
        // The list on the screen may be some keystrokes behind: then what is typed counts, not what was chosen there.
        const chosen = pick.activeItems.find((one) => pick.items.includes(one));
        const description = chosen?.asks ?? pick.value.trim();
        if (description !== "") resolve(description);
      });
      pick.show();
    });
  } finally {
    pick.dispose();
  }
}

async function answer(services: Services, terminals: Terminals, description: string): Promise<"back" | undefined> {
  const directory = terminals.directory();
  const box = new CommandBox(dialectOf(terminals.shell()), true);
  box.waiting("Asking the model. Escape stops.");
  try {
    const model = await services.connection.chatModel();
    if (model === undefined) throw noModel(services.connection.state);
    const where = await surroundings(terminals, directory);
    const proposed = await propose({
      gateway: services.connection.gateway,
      model,
      timeline: services.timeline,
      description,
      where,
      explain: services.config.explainCommands,
      signal: box.signal,
      onDraft: (draft) => box.draft(draft.command),
    });
    services.connection.met(undefined);
    const note =
      proposed.command === "" ? `No command: ${proposed.explanation || "the answer held none."}` : proposed.explanation;
    const decision = await box.decide(
      proposed.command,
      proposed.cut ? `${note} The answer was cut at its limit.`.trim() : note,
    );
    return await act(services, terminals, decision, directory, proposed.trace, () => answerAgain(terminals, decision));
  } catch (error) {
    if (box.touched && isAbort(error)) {
      const decision = await box.decide(undefined, "");
      return await act(services, terminals, decision, directory, undefined, () => answerAgain(terminals, decision));
    }
    box.dispose();
    if (isAbort(error)) return undefined;
    return await failed(services, error);
  }
}

/** A box with the same text, after the question whether to run it was answered with no. */
function answerAgain(terminals: Terminals, decision: Decision): Promise<Decision> {
  const shown = typeof decision === "object" ? decision.shown : "";
  return new CommandBox(dialectOf(terminals.shell()), false).decide(fromBox(shown), "");
}

/** The command `aicockpit.terminal.propose`: a command that is there already, of the chat for example. */
async function confirm(services: Services, terminals: Terminals, command: string): Promise<void> {
  const directory = terminals.directory();
  const box = new CommandBox(dialectOf(terminals.shell()), false);
  const decision = await box.decide(command.replace(/\r\n?/g, "\n").trim(), "");
  await act(services, terminals, decision, directory, undefined, () => answerAgain(terminals, decision));
}

async function act(
  services: Services,
  terminals: Terminals,
  decision: Decision,
  directory: vscode.Uri | undefined,
  trace: Trace | undefined,
  again: () => Promise<Decision>,
): Promise<"back" | undefined> {
  const end = (outcome: string, why: string) => {
    if (trace !== undefined) services.timeline.update(trace, { outcome, why });
  };
  if (decision === "back") return "back";
  if (decision === undefined) return undefined;
  const { step } = decision;
  switch (step.do) {
    case "run":
      end("accepted", "run in the terminal");
      await terminals.run(step.command, directory);
      return undefined;
    case "insert":
      end("accepted", "inserted without running");
      await terminals.insert(step.command, directory);
      return undefined;
    case "copy":
      end("accepted", "copied");
      await vscode.env.clipboard.writeText(step.command);
      void vscode.window.setStatusBarMessage("The command is in the clipboard.", 3000);
      return undefined;
    case "copy instead":
      end("accepted", "copied");
      await vscode.env.clipboard.writeText(step.command);
      void inform(step.why);
      return undefined;
    case "ask": {
      const yes = "Run anyway";
      const back = "Back to the command";
      // The first is what Enter chooses: pressed twice, it must not run what is dangerous.
      const chosen = await choose(step.question, step.detail, back, yes);
      if (chosen === undefined) return undefined; // the editor's own Cancel, and Escape
      if (chosen === back) {
        const next = await again();
        return await act(services, terminals, next, directory, trace, () => answerAgain(terminals, next));
      }
      end("accepted", "run in the terminal, dangerous and confirmed");
      await terminals.run(step.command, directory);
      return undefined;
    }
    case "nothing":
      return undefined;
  }
}

async function failed(services: Services, error: unknown): Promise<"back" | undefined> {
  services.connection.met(error);
  services.log.warn(`terminal: ${error instanceof Error ? error.message : String(error)}`);
  const message =
    error instanceof Fault ? `${error.message} ${error.fix}` : String(error instanceof Error ? error.message : error);
  const chosen = await complain(message, "Try again", "Check the connection");
  if (chosen === "Check the connection") await vscode.commands.executeCommand("aicockpit.check");
  return chosen === "Try again" ? "back" : undefined;
}

async function surroundings(terminals: Terminals, directory: vscode.Uri | undefined): Promise<Surroundings> {
  const folder = folderHere();
  const shell = terminals.shell();
  if (folder === undefined) return { platform: process.platform, shell, directory: undefined, files: [] };
  const names = await vscode.workspace.fs.readDirectory(folder.uri).then(
    (entries) => entries.map(([name]) => name),
    () => [],
  );
  const inside = directory?.path === folder.uri.path || directory?.path.startsWith(`${folder.uri.path}/`);
  const relative = inside ? directory?.path.slice(folder.uri.path.length + 1) : undefined;
  return { platform: process.platform, shell, directory: relative, files: names };
}
