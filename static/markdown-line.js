// One line on its way through the blocks that it stands in: what is left of it, and at which column that begins.

export class Line {
  column = 0;

  constructor(text) {
    this.rest = text;
  }

  /** How many columns of white space come next. */
  get indent() {
    let column = this.column;
    for (const letter of this.rest) {
      if (letter === "\t") column += 4 - (column % 4);
      else if (letter === " ") column += 1;
      else break;
    }
    return column - this.column;
  }

  get blank() {
    return !/[^ \t]/.test(this.rest);
  }

  /** What is left without its white space at the beginning. */
  get words() {
    return this.rest.replace(/^[ \t]+/, "");
  }

  /** Take so many columns of white space off, or as many as there are. */
  dedent(columns) {
    const wanted = this.column + columns;
    let used = 0;
    while (this.column < wanted && (this.rest[used] === " " || this.rest[used] === "\t")) {
      this.column += this.rest[used] === "\t" ? 4 - (this.column % 4) : 1;
      used += 1;
    }
    this.rest = " ".repeat(Math.max(0, this.column - wanted)) + this.rest.slice(used);
    this.column = Math.min(this.column, wanted);
    return this;
  }

  /** Take so many characters off, none of which is a tab. */
  skip(length) {
    this.rest = this.rest.slice(length);
    this.column += length;
    return this;
  }
}
