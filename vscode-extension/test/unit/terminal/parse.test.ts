import { describe, expect, it } from "vitest";
import { parseProposal } from "../../../src/features/terminal/parse";

const FENCE = "```";

const CASES: readonly (readonly [name: string, answer: string, command: string, explanation: string])[] = [
  ["plain JSON", '{"command": "ls -la", "explanation": "Lists files."}', "ls -la", "Lists files."],
  ["JSON in a fence", `${FENCE}json\n{"command":"ls","explanation":"Lists."}\n${FENCE}`, "ls", "Lists."],
  ["JSON behind chatter", 'Sure! Here it is:\n{"command":"ls","explanation":"x"}\nGood luck.', "ls", "x"],
  ["other names", '{"cmd": "ls", "description": "x"}', "ls", "x"],
  ["a list of commands", '{"commands": ["cd a", "make"]}', "cd a\nmake", ""],
  ["a command as a list of lines", '{"command": ["cd a", "make"]}', "cd a\nmake", ""],
  ["a comma too many", '{"command": "ls", "explanation": "x",}', "ls", "x"],
  ["real line breaks in a string", '{"command": "cat <<EOF\nhi\nEOF", "explanation": "x"}', "cat <<EOF\nhi\nEOF", "x"],
  ["single quotes", "{'command': 'ls', 'explanation': 'x'}", "ls", "x"],
  ["an unknown escape", String.raw`{"command": "grep '\d' a", "explanation": "x"}`, String.raw`grep '\d' a`, "x"],
  ["an end that is still to come", '{"command": "ls -l', "ls -l", ""],
  ["an end inside an escape", '{"command": "printf \\"a\\', 'printf "a', ""],
  ["only the beginning", '{"comm', "", ""],
  ["escaped characters", '{"command": "printf \\"a\\\\n\\" \\u007c cat"}', 'printf "a\\n" | cat', ""],
  ["broken JSON with unicode", '{"command": "a \\u0026\\u0026 b", "explanation": "x",}', "a && b", "x"],
  ["a refusal", '{"command": "", "explanation": "That needs a browser."}', "", "That needs a browser."],
  ["a fence", `${FENCE}bash\nls -la\n${FENCE}`, "ls -la", ""],
  ["a fence and a sentence", `${FENCE}sh\nls\n${FENCE}\nThis lists \`files\`.`, "ls", "This lists files."],
  ["a sentence before", `Lists all files.\n${FENCE}\nls\n${FENCE}`, "ls", "Lists all files."],
  ["a fence that does not end", `${FENCE}bash\nls -la`, "ls -la", ""],
  ["prompts copied from a screen", `${FENCE}console\n$ cd a\n$ ls\nREADME\n${FENCE}`, "cd a\nls", ""],
  ["a bare line", "ls -la\n", "ls -la", ""],
  ["a bare line in ticks", "`ls -la`", "ls -la", ""],
  ["ticks and an explanation", "`ls -la` lists all files.", "ls -la", "lists all files."],
  ["a prompt sign", "$ ls -la", "ls -la", ""],
  ["chatter and ticks", "You can use `du -sh *` for that.", "du -sh *", ""],
  ["chatter and a line", "Here is the command:\nls -la", "ls -la", ""],
  ["labels", "Command: ls -la\nExplanation: Lists files.", "ls -la", "Lists files."],
  ["labels in bold", "**Command:** `ls -la`\n**Explanation:** Lists files.", "ls -la", "Lists files."],
  ["a line and a sentence", "ls -la\nThis command lists files.", "ls -la", ""],
  ["continued lines", "docker run \\\n  -it \\\n  ubuntu", "docker run -it ubuntu", ""],
  ["continued lines with quotes", 'curl \\\n  -H "a"', 'curl \\\n  -H "a"', ""],
  ["a loop over several lines", "for f in *; do\n  echo $f\ndone", "for f in *; do\n  echo $f\ndone", ""],
  ["a loop in a fence", `${FENCE}\nfor f in *; do\n  echo $f\ndone\n${FENCE}`, "for f in *; do\n  echo $f\ndone", ""],
  ["a group", "{ ls; }", "{ ls; }", ""],
  ["a test", "[ -f a ] && cat a", "[ -f a ] && cat a", ""],
  ["thoughts", "<think>Maybe rm?</think>ls", "ls", ""],
  ["thoughts that go on", "<think>Maybe rm -rf", "", ""],
  ["nothing", "", "", ""],
  ["carriage returns", '{"command":"a\\r\\nb"}', "a\nb", ""],
  ["a number as command", '{"command": 5}', "", ""],
  ["an array", '["ls"]', "", ""],
];

describe("parseProposal", () => {
  it.each(CASES)("reads %s", (_, answer, command, explanation) => {
    expect(parseProposal(answer)).toEqual({ command, explanation });
  });

  it("never throws on the pieces of an answer", () => {
    const answer = `Sure <think>a</think> ${FENCE}json\n{"command": "a \\u00e4 \\"b\\"", "explanation": "c"}\n${FENCE} \`x\``;
    for (let end = 0; end <= answer.length; end++) {
      for (let start = 0; start <= end; start += 3) expect(() => parseProposal(answer.slice(start, end))).not.toThrow();
    }
  });

  it("keeps limits", () => {
    const { command, explanation } = parseProposal(
      JSON.stringify({ command: "a".repeat(50_000), explanation: "b".repeat(999) }),
    );
    expect(command).toHaveLength(20_000);
    expect(explanation).toHaveLength(300);
  });
});
