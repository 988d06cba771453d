-- Servers with the transport http: where their API is and how it proves itself. The token is in server_secrets (api_token).
CREATE TABLE http_servers (
    server_id TEXT PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    -- https://host[:port][/path]
    api_url TEXT NOT NULL,
    -- Authorities in PEM that are trusted in place of the system's; NULL: the system's.
    ca_pem TEXT,
    -- SHA-256 of the only certificate that is taken, in hexadecimal with colons; NULL: any that an authority vouches for.
    certificate_sha256 TEXT
) STRICT;
