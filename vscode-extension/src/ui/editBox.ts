/** The box an instruction is typed into: what is typed comes first, presets and earlier instructions below. */

import * as vscode from "vscode";
import { type Choice, choices } from "../features/edit/history";
import { remember, restored } from "../features/history";

const STORED = "aicockpit.edit.history";

interface Item extends vscode.QuickPickItem {
  readonly choice: Choice;
}

const ICONS: Readonly<Record<Choice["kind"], string>> = { typed: "arrow-right", preset: "sparkle", earlier: "history" };

/** The instruction, or undefined when it was cancelled, or when `closes` turns out to have a reason against it. */
export function askInstruction(
  state: vscode.Memento,
  title: string,
  value = "",
  closes?: Promise<string | undefined>,
): Promise<string | undefined> {
  const box = vscode.window.createQuickPick<Item>();
  const history = restored(state.get(STORED));
  const list = () => {
    box.items = choices(history, box.value).map(itemOf);
  };
  box.title = title;
  box.placeholder = "What should change? Earlier instructions are below.";
  box.ignoreFocusOut = true;
  box.value = value;
  list();
  return new Promise((resolve) => {
    const done = (instruction: string | undefined) => {
      resolve(instruction);
      box.dispose();
    };
    box.onDidChangeValue(list);
    box.onDidHide(() => done(undefined));
    box.onDidAccept(() => {
      const instruction = chosen(box);
      if (instruction === "") return;
      void state.update(STORED, remember(history, instruction));
      done(instruction);
    });
    void closes?.then((why) => why !== undefined && done(undefined));
    box.show();
  });
}

/** Enter may come before the editor has the list for the last letters: then what is typed counts. */
function chosen(box: vscode.QuickPick<Item>): string {
  const [active] = box.activeItems;
  const current = active !== undefined && box.items.includes(active);
  return (current ? active.choice.instruction : box.value).trim();
}

function itemOf(choice: Choice): Item {
  return {
    choice,
    label: choice.label,
    description: choice.detail,
    iconPath: new vscode.ThemeIcon(ICONS[choice.kind]),
    alwaysShow: true,
  };
}
