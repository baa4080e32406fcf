/** Tools and their calls as `/v1/chat/completions` has them. `client.ts` writes requests with it, `stream.ts` reads answers. */

import { Fields } from "./decode";
import type { ChatRequest, Message, ToolCallPiece } from "./gateway";

/** A message as it is sent. */
export function wireMessage({ role, content, toolCalls = [], toolCallId }: Message): Readonly<Record<string, unknown>> {
  const calls = toolCalls.map((call) => ({
    id: call.id,
    type: "function",
    function: { name: call.name, arguments: call.arguments },
  }));
  return {
    role,
    content,
    ...(calls.length > 0 && { tool_calls: calls }),
    ...(toolCallId !== undefined && { tool_call_id: toolCallId }),
  };
}

/** The fields of a request with tools; none without. */
export function toolsOf({ tools = [], toolRequired }: ChatRequest): Readonly<Record<string, unknown>> {
  if (tools.length === 0) return {};
  return {
    tools: tools.map((tool) => ({ type: "function", function: { ...tool } })),
    tool_choice: toolRequired === true ? "required" : "auto",
  };
}

/** The pieces of calls in one delta. */
export function readToolCalls(delta: Fields | undefined): readonly ToolCallPiece[] {
  const found = delta?.list("tool_calls", (value, at) => readPiece(new Fields(value, at)), true);
  return found ?? [];
}

function readPiece(call: Fields): ToolCallPiece {
  const asked = call.maybeFields("function");
  const [id, name, text] = [call.maybeText("id"), asked?.maybeText("name"), asked?.maybeText("arguments")];
  return {
    index: call.number("index", 0),
    ...(id !== undefined && { id }),
    ...(name !== undefined && { name }),
    ...(text !== undefined && { text }),
  };
}
