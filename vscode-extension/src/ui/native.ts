/** The editor's own chat, where it has one: a participant, and our models among those to choose from. */

import * as vscode from "vscode";
import type { ChatRequest, Model, Tool, ToolCall } from "../api/gateway";
import { TokenEstimate } from "../context/tokens";
import { answer } from "../features/chat/answer";
import { fileBlock } from "../features/chat/blocks";
import type { Block, KeptTurn } from "../features/chat/conversation";
import { sentenceOf } from "../features/chat/faults";
import { alternating, type HostMessage, limitsOf, nativeTurn, sentOf } from "../features/chat/native";
import { fitPrompt, messagesOf, roomOf, textOf } from "../features/chat/prompt";
import { shorten } from "../features/chat/title";
import { ToolSense, type ToolUse } from "../features/chat/tools";
import { ChatFiles, pathOf } from "./chatFiles";
import { chatPlace } from "./chatPlace";
import { iconPath } from "./icon";
import type { Services } from "./services";

const VENDOR = "aicockpit";

export function register(services: Services): vscode.Disposable {
  let live: vscode.Disposable | undefined;
  const follow = (): void => {
    if (services.config.nativeChat === (live !== undefined)) return;
    live?.dispose();
    live = services.config.nativeChat ? start(services) : undefined;
  };
  follow();
  return vscode.Disposable.from(services.config.onChange(follow), { dispose: () => live?.dispose() });
}

function start(services: Services): vscode.Disposable {
  const parts: vscode.Disposable[] = [];
  try {
    if (typeof vscode.lm?.registerLanguageModelChatProvider === "function") parts.push(registerModels(services));
    if (typeof vscode.chat?.createChatParticipant === "function") parts.push(registerParticipant(services));
    if (parts.length < 2)
      services.log.info("This editor has no chat of its own for extensions; the AiCockpit view has everything.");
  } catch (error) {
    services.log.info(`The editor's own chat is not used: ${sentenceOf(error)}`);
  }
  return vscode.Disposable.from(...parts);
}

function registerModels(services: Services): vscode.Disposable {
  const changed = new vscode.EventEmitter<void>();
  const estimate = new TokenEstimate();
  const sense = new ToolSense(() => changed.fire());
  const provider: vscode.LanguageModelChatProvider = {
    onDidChangeLanguageModelChatInformation: changed.event,
    async provideLanguageModelChatInformation() {
      const { connection, config } = services;
      try {
        const models = (await connection.models()).filter(chats);
        const tools = await Promise.all(models.map((model) => sense.can(connection.gateway, model)));
        return models.map((model, at) => information(model, config.chatMaxTokens, tools[at] === true));
      } catch (error) {
        services.connection.met(error);
        return [];
      }
    },
    async provideLanguageModelChatResponse(model, messages, options, progress, token) {
      const given = alternating(messages.map(hostMessage));
      const tools = { tools: (options.tools ?? []).map(toolOf), toolRequired: isRequired(options.toolMode) };
      const maxTokens =
        numberIn(options.modelOptions, "max_tokens") ?? Math.min(model.maxOutputTokens, services.config.chatMaxTokens);
      const temperature = numberIn(options.modelOptions, "temperature") ?? services.config.temperature;
      const asked = { model: model.id, messages: given, maxTokens, temperature, ...tools };
      const { uses, error } = await run(services, asked, token, (text) =>
        progress.report(new vscode.LanguageModelTextPart(text)),
      );
      if (error !== undefined) throw new Error(error);
      for (const { id, name, input } of uses) progress.report(new vscode.LanguageModelToolCallPart(id, name, input));
    },
    async provideTokenCount(model, text) {
      return estimate.text(model.id, typeof text === "string" ? text : wordsOf(hostMessage(text)));
    },
  };
  const registered = vscode.lm.registerLanguageModelChatProvider(VENDOR, provider);
  const following = services.connection.onChange(({ kind }) => {
    if (kind !== "ready") sense.forget();
    changed.fire();
  });
  // Until some model was resolved, the editor answers every participant's request with "Language model unavailable".
  vscode.lm.selectChatModels({ vendor: VENDOR }).then(
    (models) => services.log.debug(`the editor's chat knows ${models.length} of our models`),
    (error: unknown) => services.log.info(`The editor's chat does not take our models: ${sentenceOf(error)}`),
  );
  return vscode.Disposable.from(registered, following, changed);
}

function registerParticipant(services: Services): vscode.Disposable {
  let files: ChatFiles | undefined;
  const estimate = new TokenEstimate();
  const handler: vscode.ChatRequestHandler = async (request, context, stream, token) => {
    try {
      const model = await modelFor(services, request);
      if (model === undefined)
        return failed("The server has no model that chats. Start one, or look at aicockpit.chat.model.");
      if (request.references.length > 0) files ??= new ChatFiles();
      const blocks = files === undefined ? [] : await referenced(files, request.references, stream);
      const turns = [...historyOf(context), nativeTurn(request.prompt, "", blocks)];
      const { instructions, chatMaxTokens, temperature } = services.config;
      const wishes = { instructions, vision: model.role === "vision" };
      const room = roomOf(model.maxLength, chatMaxTokens);
      const fitted = fitPrompt(turns, wishes, room.prompt, (text) => estimate.message(model.id, text));
      if (fitted.tooLong) return failed("The question is too long for this model. Send fewer files.");
      if (fitted.left.length > 0)
        stream.progress(`Left out, to fit into the model's length: ${fitted.left.join(", ")}`);
      const messages = messagesOf(fitted.turns, wishes);
      let text = "";
      const asked = { model: model.id, messages, maxTokens: room.answer, temperature };
      const { error } = await run(services, asked, token, (piece) => {
        text += piece;
        stream.markdown(piece);
      });
      const question = textOf(messages.at(-1)?.content ?? "");
      return { metadata: { question, answer: text }, ...(error !== undefined && { errorDetails: { message: error } }) };
    } catch (error) {
      services.connection.met(error);
      return failed(sentenceOf(error));
    }
  };
  const participant = vscode.chat.createChatParticipant("aicockpit.chat", handler);
  participant.iconPath = iconPath(services.context.extensionUri);
  return vscode.Disposable.from(participant, { dispose: () => files?.dispose() });
}

/** `error`: what went wrong, in a sentence; undefined: nothing. */
async function run(
  services: Services,
  asked: ChatRequest,
  token: vscode.CancellationToken,
  hear: (text: string) => void,
): Promise<{ readonly uses: readonly ToolUse[]; readonly error: string | undefined }> {
  const abort = new AbortController();
  const cancelled = token.onCancellationRequested(() => abort.abort());
  if (token.isCancellationRequested) abort.abort();
  try {
    const { timeline, connection } = services;
    const place = chatPlace(services);
    const lastLine = textOf(asked.messages.at(-1)?.content ?? "")
      .split("\n")
      .at(-1);
    const trace = timeline.begin("chat", asked.model, shorten(lastLine ?? "", 80));
    const clock = (): number => performance.now();
    const parts = {
      gateway: connection.gateway,
      request: { ...asked, ...(place && { place }) },
      signal: abort.signal,
      timeline,
      trace,
      began: clock(),
      clock,
    };
    const { uses, ending, error } = await answer(parts, (text) => {
      if (text !== "") hear(text);
    });
    if (ending.stopped !== true) connection.met(error);
    const fault = ending.fault && `${ending.fault.message} ${ending.fault.fix}`.trim();
    return { uses, error: fault };
  } finally {
    cancelled.dispose();
  }
}

/** The model picked in the editor's chat, if it is ours; else ours. */
async function modelFor(services: Services, request: vscode.ChatRequest): Promise<Model | undefined> {
  if (request.model?.vendor === VENDOR) {
    const found = (await services.connection.models()).find(({ id }) => id === request.model.id);
    if (found !== undefined) return found;
  }
  return services.connection.chatModel();
}

/** Earlier turns, as they were sent. */
function historyOf(context: vscode.ChatContext): readonly KeptTurn[] {
  const turns: KeptTurn[] = [];
  let prompt = "";
  for (const turn of context.history) {
    if (turn instanceof vscode.ChatRequestTurn) prompt = turn.prompt;
    else {
      const sent = sentOf(turn.result.metadata);
      const said = turn.response
        .map((part) => (part instanceof vscode.ChatResponseMarkdownPart ? part.value.value : ""))
        .join("");
      turns.push(nativeTurn(sent?.question ?? prompt, sent?.answer ?? said));
    }
  }
  return turns;
}

async function referenced(
  files: ChatFiles,
  references: readonly vscode.ChatPromptReference[],
  stream: vscode.ChatResponseStream,
): Promise<readonly Block[]> {
  const blocks: Block[] = [];
  for (const { id, value, modelDescription } of [...references].reverse()) {
    try {
      if (value instanceof vscode.Uri) {
        const { text, language } = await files.read(value);
        blocks.push(fileBlock({ id, kind: "file", path: pathOf(value), language, text }));
        stream.reference?.(value);
      } else if (value instanceof vscode.Location) {
        const { text, language } = await files.read(value.uri);
        const lines = { from: value.range.start.line + 1, to: value.range.end.line + 1 };
        blocks.push(fileBlock({ id, kind: "selection", path: pathOf(value.uri), language, text, lines }));
        stream.reference?.(value);
      } else if (typeof value === "string") {
        blocks.push({ id, kind: "selection", title: modelDescription ?? id, language: "", text: value });
      }
    } catch (error) {
      stream.markdown(`*${sentenceOf(error)}*\n\n`);
    }
  }
  return blocks;
}

function failed(message: string): vscode.ChatResult {
  return { errorDetails: { message } };
}

function chats({ role }: Model): boolean {
  return role === undefined || role === "chat" || role === "vision";
}

function information(model: Model, maxTokens: number, tools: boolean): vscode.LanguageModelChatInformation {
  const { input, output } = limitsOf(model.maxLength, maxTokens);
  return {
    id: model.id,
    name: model.id,
    family: model.id,
    version: "1",
    detail: "AiCockpit",
    tooltip:
      model.maxLength === undefined
        ? "Its length is not known."
        : `${model.maxLength.toLocaleString("en")} tokens, on your own server`,
    maxInputTokens: input,
    maxOutputTokens: output,
    // Without tools the editor's agent mode, its default, hides a model, and where all are hidden it refuses `@aicockpit`
    // with "Language model unavailable": its other modes do not.
    capabilities: { imageInput: model.role === "vision", toolCalling: tools },
  };
}

function hostMessage(message: vscode.LanguageModelChatRequestMessage): HostMessage {
  const texts: string[] = [];
  const images: string[] = [];
  const calls: ToolCall[] = [];
  const results: { id: string; text: string }[] = [];
  const { Assistant, User } = vscode.LanguageModelChatMessageRole;
  const role = message.role === Assistant ? "assistant" : message.role === User ? "user" : "system";
  for (const part of message.content) {
    if (part instanceof vscode.LanguageModelTextPart) texts.push(part.value);
    else if (part instanceof vscode.LanguageModelToolCallPart)
      calls.push({ id: part.callId, name: part.name, arguments: JSON.stringify(part.input) });
    else if (part instanceof vscode.LanguageModelToolResultPart) {
      results.push({ id: part.callId, text: part.content.map(resultText).join("") });
      images.push(...part.content.filter(isPicture).map(pictureUrl));
    } else if (isPicture(part)) images.push(pictureUrl(part));
  }
  return { role, text: texts.join(""), images, calls, results };
}

/** What a tool gave back, as the model reads it. */
function resultText(part: unknown): string {
  if (part instanceof vscode.LanguageModelTextPart) return part.value;
  if (part instanceof vscode.LanguageModelPromptTsxPart) return JSON.stringify(part.value);
  if (!isData(part)) return "";
  return /^text\/|[/+]json$/.test(part.mimeType) ? Buffer.from(part.data).toString("utf8") : "";
}

function pictureUrl(part: Data): string {
  return `data:${part.mimeType};base64,${Buffer.from(part.data).toString("base64")}`;
}

/** All that is sent of a message, for its length. */
function wordsOf({ text, calls, results }: HostMessage): string {
  return [text, ...calls.map((call) => call.name + call.arguments), ...results.map((one) => one.text)].join("\n");
}

function toolOf({ name, description, inputSchema }: vscode.LanguageModelChatTool): Tool {
  return { name, description, parameters: inputSchema ?? { type: "object", properties: {} } };
}

function isRequired(mode: vscode.LanguageModelChatToolMode | undefined): boolean {
  return mode === vscode.LanguageModelChatToolMode.Required;
}

/** A part that hosts newer than our types have. */
interface Data {
  readonly mimeType: string;
  readonly data: Uint8Array;
}

function isData(part: unknown): part is Data {
  if (typeof part !== "object" || part === null || !("mimeType" in part) || !("data" in part)) return false;
  return typeof part.mimeType === "string" && part.data instanceof Uint8Array;
}

function isPicture(part: unknown): part is Data {
  return isData(part) && part.mimeType.startsWith("image/");
}

function numberIn(options: Readonly<Record<string, unknown>> | undefined, name: string): number | undefined {
  const value = options?.[name];
  return typeof value === "number" ? value : undefined;
}
