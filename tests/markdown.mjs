// What a well-kept parser makes of texts: a JSON list of Markdown on stdin, a list of outlines on stdout.
// The outline is that of `outline()` in test_markdown.py, which reads it off the page.

import { fromMarkdown } from "mdast-util-from-markdown";
import { gfmFromMarkdown } from "mdast-util-gfm";
import { gfm } from "micromark-extension-gfm";

// What the page leaves out, and shows as text.
const OUT = ["htmlFlow", "htmlText", "definition", "gfmFootnoteCall", "gfmPotentialFootnoteCall", "gfmFootnoteDefinition"];
const SAFE = /^(https?|mailto):/i;

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

function outline(node, source, sides = []) {
  const inside = () => (node.children ?? []).map((child) => outline(child, source, node.align)).join("");
  const tag = (name, text = inside(), more = "") => `<${name}${more}>${text}</${name}>`;
  switch (node.type) {
    case "root": return inside();
    case "text": return escaped(node.value).replaceAll("\n", "<br>");
    case "break": return "<br>";
    case "paragraph": return tag("p");
    case "heading": return tag("h");
    case "emphasis": return tag("em");
    case "strong": return tag("strong");
    case "delete": return tag("del");
    case "inlineCode": return tag("code", escaped(node.value));
    case "code": return tag("pre", escaped(node.value), node.lang ? ` ${node.lang}` : "");
    case "blockquote": return tag("blockquote");
    case "thematicBreak": return "<hr>";
    case "list": return node.ordered ? tag("ol", inside(), ` ${node.start}`) : tag("ul");
    case "listItem": return tag("li", (node.checked === null ? "" : node.checked ? "[x]" : "[ ]") + inside());
    case "table": return tag("table");
    case "tableRow": return tag("tr", node.children.map((cell, n) => {
      return `<td ${sides[n] ?? "null"}>${outline(cell, source)}</td>`;
    }).join("") + "<td null></td>".repeat(Math.max(0, sides.length - node.children.length)));
    case "tableCell": return inside();
    case "image": return tag("a", escaped(node.alt || node.url), ` ${node.url}`);
    case "link": {
      if (SAFE.test(node.url)) return tag("a", inside(), ` ${node.url}`);
      const written = source.slice(node.position.start.offset, node.position.end.offset);
      if (written.startsWith("<")) return escaped(written);
      const end = node.children.at(-1)?.position.end.offset ?? node.position.start.offset + 1;
      return `[${inside()}${escaped(source.slice(end, node.position.end.offset))}`;
    }
    default: throw new Error(`${node.type} is not known here`);
  }
}

let input = "";
for await (const chunk of process.stdin) input += chunk;
const options = { extensions: [gfm(), { disable: { null: OUT } }], mdastExtensions: [gfmFromMarkdown()] };
const outlines = JSON.parse(input).map((text) => {
  const tree = fromMarkdown(text, options);
  // `<br>` is the one tag that the page knows.
  return outline(tree, text).replaceAll(/&lt;br ?\/?>/g, "<br>");
});
console.log(JSON.stringify(outlines));
