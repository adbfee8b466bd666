-- Who was ever vouched for by a door. The id is ours and stable; names and addresses may change.
CREATE TABLE subjects (
    id text PRIMARY KEY,
    door text NOT NULL,
    account text NOT NULL,
    UNIQUE (door, account)
);

-- Whose certificates a name stands in; in one spelling, so that no other person gets one like it.
CREATE TABLE names (
    name_key text PRIMARY KEY,
    subject text NOT NULL
);

-- Accounts that CertBob made itself at the first start. Only the password's hash is kept.
CREATE TABLE accounts (
    username text PRIMARY KEY,
    password_hash text NOT NULL
);

CREATE TABLE sessions (
    id_hash text PRIMARY KEY,
    subject text NOT NULL,
    door text NOT NULL,
    account text NOT NULL,
    name text NOT NULL,
    email text,
    groups text NOT NULL,
    is_admin bigint NOT NULL,
    created_at bigint NOT NULL,
    seen_at bigint NOT NULL
);
CREATE INDEX sessions_by_age ON sessions (created_at);

-- Who was sent to the sign-in service and may come back.
CREATE TABLE sign_ins (
    key text PRIMARY KEY,
    browser_hash text NOT NULL,
    wanted text NOT NULL,
    started_at bigint NOT NULL
);
CREATE INDEX sign_ins_by_browser ON sign_ins (browser_hash, started_at);
CREATE INDEX sign_ins_by_age ON sign_ins (started_at);

-- Failed sign-ins, by user name and by address.
CREATE TABLE tries (
    bucket text PRIMARY KEY,
    count bigint NOT NULL,
    until bigint NOT NULL
);

CREATE TABLE grants (
    id_hash text PRIMARY KEY,
    subject text NOT NULL,
    door text NOT NULL,
    account text NOT NULL,
    name text NOT NULL,
    email text,
    groups text NOT NULL,
    profile text NOT NULL,
    validity bigint NOT NULL,
    platform text NOT NULL,
    device text NOT NULL,
    older bigint NOT NULL,
    delivery text NOT NULL,
    replaces bigint,
    overlap bigint,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    claimed_at bigint,
    holder_hash text
);
CREATE INDEX grants_by_expiry ON grants (expires_at);

-- Of the links that somebody got in a chat only the newest one works.
CREATE TABLE latest_links (
    subject text PRIMARY KEY,
    id_hash text NOT NULL
);

-- What a chat account was called when it was first seen; a name can be changed there by everybody.
CREATE TABLE chat_accounts (
    user_id text NOT NULL,
    kind text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (user_id, kind),
    UNIQUE (kind, value)
);

-- Chat accounts whose people showed by signing in here who they are.
CREATE TABLE chat_links (
    user_id text PRIMARY KEY,
    user_name text NOT NULL,
    subject text NOT NULL,
    door text NOT NULL,
    account text NOT NULL,
    name text NOT NULL,
    email text,
    groups text NOT NULL
);
CREATE INDEX chat_links_by_subject ON chat_links (subject);

-- Chat accounts that were asked to do so.
CREATE TABLE link_requests (
    id_hash text PRIMARY KEY,
    user_id text NOT NULL,
    user_name text NOT NULL,
    until bigint NOT NULL
);

-- Signed messages of a chat server, until they are too old to be taken again.
CREATE TABLE seen_messages (
    id_hash text PRIMARY KEY,
    until bigint NOT NULL
);

-- The public key that a chat server had when it was first asked, base64 of DER.
CREATE TABLE chat_keys (
    server text PRIMARY KEY,
    public_key text NOT NULL
);

-- The last number for a list of revoked certificates, and the times of the last list that was signed; one row.
CREATE TABLE crl_numbers (
    id bigint PRIMARY KEY,
    number bigint NOT NULL,
    this_update bigint,
    next_update bigint
);

-- The ledger: one row for every signing that may exist.
CREATE TABLE certificates (
    id integer PRIMARY KEY,
    grant_hash text NOT NULL,
    state text NOT NULL,
    subject text NOT NULL,
    door text NOT NULL,
    account text NOT NULL,
    actor text NOT NULL,
    name text NOT NULL,
    email text,
    profile text NOT NULL,
    platform text NOT NULL,
    device text NOT NULL,
    encoding text NOT NULL,
    key_type text NOT NULL,
    validity bigint NOT NULL,
    csr_sha256 text NOT NULL,
    request_id text NOT NULL,
    address text NOT NULL,
    created_at bigint NOT NULL,
    closed_at bigint,
    serial text UNIQUE,
    not_before bigint,
    not_after bigint,
    fingerprint text,
    certificate bytea,
    revoked_at bigint,
    revocation_reason bigint,
    replaces bigint,
    overlap bigint,
    replaced_by bigint,
    revoke_at bigint,
    delivery text NOT NULL DEFAULT 'download',
    delivered bigint DEFAULT 1,
    note text
);
CREATE INDEX certificates_taken_back ON certificates (id)
    WHERE revoked_at IS NOT NULL OR state = 'rejected';
CREATE INDEX certificates_open ON certificates (id)
    WHERE state = 'intent' OR state = 'uncertain';
CREATE INDEX certificates_by_end ON certificates (not_after)
    WHERE state = 'issued' AND revoked_at IS NULL;
CREATE INDEX certificates_by_age ON certificates (created_at);
CREATE INDEX certificates_by_subject ON certificates (subject, created_at);
CREATE INDEX certificates_replaced ON certificates (revoke_at)
    WHERE revoke_at IS NOT NULL AND revoked_at IS NULL;
-- One grant, one certificate: whatever the program does, the database refuses a second one.
CREATE UNIQUE INDEX certificates_by_grant ON certificates (grant_hash) WHERE state <> 'failed';

-- What was said about the end of a certificate: "claimed", "sending", "sent" or "refused"; `step` days before it.
CREATE TABLE reminders (
    entry bigint NOT NULL,
    step bigint NOT NULL,
    way text NOT NULL,
    state text NOT NULL,
    at bigint NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (entry, step, way)
);
CREATE INDEX reminders_by_end ON reminders (until);

-- Who wants none.
CREATE TABLE reminders_off (
    subject text PRIMARY KEY
);

-- Who did what, when, from where; each row's hash covers the one before (see `certbob.audit`).
CREATE TABLE audit (
    number integer PRIMARY KEY,
    at bigint NOT NULL,
    action text NOT NULL,
    door text NOT NULL,
    account text NOT NULL,
    actor text NOT NULL,
    address text NOT NULL,
    reference text NOT NULL,
    subject text,
    name text,
    serial text,
    note text NOT NULL,
    hash text NOT NULL
);
CREATE INDEX audit_by_action ON audit (action, number);
CREATE INDEX audit_by_time ON audit (at);

-- The last row of it; one row. Whoever writes the next one holds it meanwhile.
CREATE TABLE audit_head (
    id bigint PRIMARY KEY,
    number bigint NOT NULL,
    hash text NOT NULL
);
INSERT INTO audit_head (id, number, hash) VALUES (1, 0, '');

-- Whether issuing is stopped: then there is the one row.
CREATE TABLE pause (
    id bigint PRIMARY KEY,
    since bigint NOT NULL,
    who text NOT NULL,
    note text NOT NULL
);
