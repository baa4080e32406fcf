/** What the editor's language features know: symbols and problems. */

import * as vscode from "vscode";
import type { Lines } from "../context/mentions";
import type { Problem } from "../features/chat/blocks";
import type { Suggestion } from "../features/chat/protocol";
import { MOST_ROWS, nameOf, problemsRow, symbolRow } from "../features/chat/suggest";
import { pathOf } from "./chatFiles";

const SEVERITIES = ["error", "warning", "information", "hint"] as const;

/** The workspace's symbols of this name; without a name, the active file's. */
export async function symbolsOf(
  query: string,
  active: vscode.TextDocument | undefined,
): Promise<readonly Suggestion[]> {
  const own =
    active === undefined ? [] : flat(await documentSymbols(active.uri)).map((each) => ofDocument(each, active.uri));
  const matching = own.filter(({ label }) => label.toLowerCase().includes(query.toLowerCase()));
  if (query === "") return own.slice(0, MOST_ROWS);
  const command = "vscode.executeWorkspaceSymbolProvider";
  const found = (await vscode.commands.executeCommand<vscode.SymbolInformation[] | undefined>(command, query)) ?? [];
  const all = [...matching, ...found.filter(({ location }) => location.uri.scheme === "file").map(ofWorkspace)];
  const seen = new Set<string>();
  return all.filter(({ label, detail }) => {
    const key = `${label} ${detail.replace(/^.* · /, "")}`;
    return seen.has(key) ? false : seen.add(key) !== undefined;
  });
}

/** All lines of a symbol: a workspace search only tells where its name is. */
export async function fullLines(uri: vscode.Uri, name: string, near: Lines | undefined): Promise<Lines | undefined> {
  const named = flat(await documentSymbols(uri)).filter((symbol) => plainName(symbol.name) === plainName(name));
  const distance = (symbol: vscode.DocumentSymbol): number =>
    Math.abs(symbol.selectionRange.start.line + 1 - (near?.from ?? 0));
  const [best] = named.sort((one, other) => distance(one) - distance(other));
  return best === undefined ? near : linesOf(best.range);
}

/** Of one file, or of all. */
export async function problemsOf(
  uri: vscode.Uri | undefined,
  isSecret: (uri: vscode.Uri) => boolean,
): Promise<readonly Problem[]> {
  const all =
    uri === undefined ? vscode.languages.getDiagnostics() : [[uri, vscode.languages.getDiagnostics(uri)] as const];
  return all.flatMap(([where, found]) => {
    if (isSecret(where)) return [];
    const document = vscode.workspace.textDocuments.find((each) => each.uri.toString() === where.toString());
    return found.map((diagnostic) => problemOf(where, diagnostic, document));
  });
}

export function allProblems(active: vscode.Uri | undefined): readonly Suggestion[] {
  const rows: Suggestion[] = [];
  if (active !== undefined)
    rows.push(
      counted(`Problems of ${nameOf(pathOf(active))}`, active.toString(), vscode.languages.getDiagnostics(active)),
    );
  rows.push(
    counted(
      "All problems",
      "*",
      vscode.languages.getDiagnostics().flatMap(([, found]) => found),
    ),
  );
  return rows;
}

function counted(label: string, at: string, found: readonly vscode.Diagnostic[]): Suggestion {
  const count = (severity: vscode.DiagnosticSeverity): number =>
    found.filter((each) => each.severity === severity).length;
  const { Error: error, Warning: warning } = vscode.DiagnosticSeverity;
  return problemsRow(label, at, { errors: count(error), warnings: count(warning) });
}

function problemOf(uri: vscode.Uri, diagnostic: vscode.Diagnostic, document: vscode.TextDocument | undefined): Problem {
  const { range, message, severity, source, code } = diagnostic;
  const value = typeof code === "object" ? code.value : code;
  const line = range.start.line;
  const text = document !== undefined && line < document.lineCount ? document.lineAt(line).text : undefined;
  return {
    path: pathOf(uri),
    line: line + 1,
    column: range.start.character + 1,
    severity: SEVERITIES[severity] ?? "hint",
    message,
    source: [source, value].filter((part) => part !== undefined && part !== "").join(" "),
    code: text,
  };
}

async function documentSymbols(uri: vscode.Uri): Promise<readonly vscode.DocumentSymbol[]> {
  const command = "vscode.executeDocumentSymbolProvider";
  const found = await vscode.commands.executeCommand<(vscode.DocumentSymbol | vscode.SymbolInformation)[] | undefined>(
    command,
    uri,
  );
  return (found ?? []).map((each) => {
    if ("children" in each) return each;
    const { name, kind, location } = each;
    return new vscode.DocumentSymbol(name, "", kind, location.range, location.range);
  });
}

function flat(symbols: readonly vscode.DocumentSymbol[]): readonly vscode.DocumentSymbol[] {
  return symbols.flatMap((symbol) => [symbol, ...flat(symbol.children ?? [])]);
}

function ofDocument({ name, range }: vscode.DocumentSymbol, uri: vscode.Uri): Suggestion {
  return symbolRow(name, "", pathOf(uri), uri.toString(), linesOf(range));
}

function ofWorkspace({ name, containerName, location }: vscode.SymbolInformation): Suggestion {
  return symbolRow(name, containerName, pathOf(location.uri), location.uri.toString(), linesOf(location.range));
}

function linesOf(range: vscode.Range): Lines {
  return { from: range.start.line + 1, to: range.end.line + 1 };
}

/** Some providers write `name()` or `name: type`. */
function plainName(name: string): string {
  return name.replace(/[(:<].*$/s, "").trim();
}
