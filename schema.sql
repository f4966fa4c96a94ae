-- What is stored; engines/postgres.sql has what several processes need beside it. Times are UTC, ISO 8601 with a "Z".
-- Ids are never reused (AUTOINCREMENT).
-- `PRAGMA user_version` holds the version of this schema; engines/sqlite.py upgrades older files step by step.

CREATE TABLE IF NOT EXISTS conversations (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id     TEXT NOT NULL,
    title       TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL,
    version     INTEGER NOT NULL DEFAULT 1, -- how often it, or a message in it that is not live, has changed
    size        INTEGER NOT NULL DEFAULT 0  -- characters of its messages that are not live
) STRICT;

CREATE INDEX IF NOT EXISTS conversations_last_used_first
    ON conversations (user_id, updated_at DESC, id DESC, version, size);

-- A turn is two rows: what the user said, and the one answer to it.
-- `tool_calls` is a JSON list of {"id", "name", "args", "result", "at"}: `at` is the offset in `content`, in
-- characters, where the call happened; "result" is missing where the call was cut off. A call may have a "state" too:
-- what its model, and no other, is given back with it. `reasoning` is a JSON list of {"text", "at", "calls"}: a stretch of
-- the model's reasoning, where it came, and after how many calls. `citations` is one of {"url", "title", "at", "calls"}.
CREATE TABLE IF NOT EXISTS messages (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation_id  INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    role             TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    content          TEXT NOT NULL,
    tool_calls       TEXT NOT NULL DEFAULT '[]',
    status           TEXT NOT NULL CHECK (status IN ('streaming', 'done', 'stopped', 'failed', 'interrupted')),
    error            TEXT,  -- the sentence the user was shown, if the turn did not end well
    created_at       TEXT NOT NULL,
    reasoning        TEXT NOT NULL DEFAULT '[]',
    feedback         TEXT CHECK (feedback IN ('positive', 'negative')),
    citations        TEXT NOT NULL DEFAULT '[]',
    -- Of a live answer, where several processes share a database (processes.py):
    owner            TEXT,     -- the process that makes it
    asked            TEXT CHECK (asked = 'stopped'),  -- 'stopped': a user has asked another process to stop it
    stop_readers     INTEGER,  -- how many readers other processes have whose leaving counts as Stop; NULL: never any
    -- What the answer took, once it has ended; NULL if the model did not say.
    input_tokens     INTEGER,
    output_tokens    INTEGER,
    CHECK (role = 'assistant' OR status = 'done')
) STRICT;

CREATE INDEX IF NOT EXISTS messages_in_order ON messages (conversation_id, id);

-- One live answer in a conversation: `Store.begin_turn` refuses the second one, and if it should fail this index does.
CREATE UNIQUE INDEX IF NOT EXISTS one_live_answer ON messages (conversation_id) WHERE status = 'streaming';

-- What there is of the answers that are `streaming`: events.py says what an event is. When an answer ends, its events are
-- folded into its row in `messages`, which has nothing of them until then. In SQLite they are then deleted; where several
-- processes share a database they are kept for a minute, for those who follow the answer elsewhere (processes.py).
CREATE TABLE IF NOT EXISTS live_events (
    answer_id  INTEGER NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    first      INTEGER NOT NULL,  -- the number of the first of these events; each checkpoint adds a row
    events     TEXT NOT NULL,     -- a JSON list, in which a bare text is a piece of the answer's text
    PRIMARY KEY (answer_id, first)
) STRICT, WITHOUT ROWID;

-- Idempotency keys of the last day. `answer_id` becomes NULL when the answer is deleted: the key stays used.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    user_id     TEXT NOT NULL,
    key         TEXT NOT NULL,
    request     TEXT NOT NULL,  -- a digest of the body, to tell a retry from a mistake
    answer_id   INTEGER REFERENCES messages (id) ON DELETE SET NULL,
    created_at  TEXT NOT NULL,
    PRIMARY KEY (user_id, key)
) STRICT;

CREATE INDEX IF NOT EXISTS idempotency_keys_by_age ON idempotency_keys (created_at);
CREATE INDEX IF NOT EXISTS idempotency_keys_by_answer ON idempotency_keys (answer_id);

-- What each user has used today: it must not shrink when a conversation is deleted.
CREATE TABLE IF NOT EXISTS token_counts (
    user_id  TEXT NOT NULL,
    day      TEXT NOT NULL,
    tokens   INTEGER NOT NULL,
    PRIMARY KEY (day, user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS tasks (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id      TEXT NOT NULL,
    title        TEXT NOT NULL,
    description  TEXT,
    completed    INTEGER NOT NULL DEFAULT 0 CHECK (completed IN (0, 1)),
    created_at   TEXT NOT NULL,
    updated_at   TEXT NOT NULL,
    due          TEXT CHECK (due LIKE '____-__-__'),  -- a date in the user's time zone
    version      INTEGER NOT NULL DEFAULT 1           -- how often it has changed
) STRICT;

CREATE INDEX IF NOT EXISTS tasks_of_user ON tasks (user_id, id, version);
