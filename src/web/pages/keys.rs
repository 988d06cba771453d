//! The keys that Roundsman keeps: all of them, and one with where it is used. Public halves only.

use askama::Template;

use crate::fleet::{CertificateView, KeyDetail, KeySummary, KeyUseView, Validity};
use crate::model::Timestamp;
use crate::ssh::keyring::KeyKind;
use crate::store::keys::LoginOf;
use crate::web::view::{self, When};

use super::fleet::natural_text;
use super::form::{Field, FieldProblem};
use super::{Badge, Choice, Chrome, Section, Viewer};

/// Characters of a private key or a certificate that a form takes.
const KEY_TEXT_CHARS: u32 = 64 * 1024;
const NAME_CHARS: u32 = 63;
/// Servers that a page lists; the API has them all.
const USES_SHOWN: usize = 500;

/// What was typed into the forms of the page, and what is wrong with it. The secret parts never come back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyForms {
    pub create_name: String,
    pub create_kind: String,
    pub import_name: String,
    pub new_name: String,
    pub rotate_to: String,
    pub rotate_servers: String,
    pub rotate_tag: String,
    /// Which form was sent: `create`, `import`, `rename`, `certificate`, `rotate`, …
    pub sent: &'static str,
    pub problems: Vec<FieldProblem>,
}

impl KeyForms {
    fn problems_of(&self, form: &str) -> &[FieldProblem] {
        if self.sent == form { &self.problems } else { &[] }
    }
}

/// `GET /keys`, and the answer to its forms. They send: `/keys` name, kind; `/keys/import` name, private_key, passphrase.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/keys.html")]
pub struct KeysPage {
    pub chrome: Chrome,
    keys: Vec<KeyRow>,
    paste_command: Option<(String, String)>,
    create_name: Field,
    kinds: Vec<Choice>,
    import: Vec<Field>,
}

#[derive(Debug, Clone)]
struct KeyRow {
    id: String,
    name: String,
    kind: String,
    fingerprint: String,
    is_default: bool,
    weakness: Option<String>,
    certificate: Option<Badge>,
    logins: usize,
    made: When,
}

impl KeyRow {
    fn new(key: &KeySummary, now: Timestamp) -> Self {
        Self {
            id: key.id.to_string(),
            name: view::clean(&key.name, view::CELL_CHARS),
            kind: kind(key),
            fingerprint: key.fingerprint.clone(),
            is_default: key.is_default,
            weakness: key.weakness.clone(),
            certificate: key.certificate.as_ref().map(|certificate| validity(certificate.validity)),
            logins: key.logins,
            made: When::new(Some(key.created_at), now),
        }
    }
}

/// `RSA 4096`, `ed25519`: as people say it.
fn kind(key: &KeySummary) -> String {
    let word = match key.algorithm.as_str() {
        "ssh-ed25519" => "ed25519",
        "ssh-rsa" => "RSA",
        other if other.starts_with("ecdsa-") => "ECDSA",
        other => other,
    };
    match key.bits {
        Some(bits) if word != "ed25519" => format!("{word} {bits}"),
        _ => word.to_owned(),
    }
}

const fn validity(validity: Validity) -> Badge {
    let (class, icon, text) = match validity {
        Validity::Valid => ("is-healthy", "circle-check", "Valid"),
        Validity::NotYet => ("is-degraded", "clock", "Not yet valid"),
        Validity::ExpiresSoon => ("is-degraded", "triangle-alert", "Ends soon"),
        Validity::Expired => ("is-critical", "octagon-x", "Expired"),
    };
    Badge { class, icon, text }
}

impl KeysPage {
    /// `default` is the default key with the command that lets it in.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        keys: &[KeySummary],
        default: Option<&KeyDetail>,
        forms: &KeyForms,
        now: Timestamp,
    ) -> Self {
        let create = forms.problems_of("create");
        let import = forms.problems_of("import");
        let text = Field::lines("private_key", "Private key", "", KEY_TEXT_CHARS)
            .placeholder("-----BEGIN OPENSSH PRIVATE KEY-----")
            .hint("OpenSSH, PEM, PKCS#8 or PuTTY. It is stored encrypted and never shown again.");
        let kinds = [
            (KeyKind::Ed25519, "ed25519, for everything since OpenSSH 6.5"),
            (KeyKind::Ecdsa, "ECDSA P-256, where rules ask for NIST"),
            (KeyKind::Rsa4096, "RSA 4096, for what knows nothing else; takes seconds"),
        ];
        Self {
            chrome: Chrome::new("Keys", Section::Keys, None, viewer, now),
            keys: keys.iter().map(|key| KeyRow::new(key, now)).collect(),
            paste_command: default
                .map(|detail| (view::clean(&detail.key.name, 80), detail.install_command.clone())),
            create_name: Field::line("name", "Name", &forms.create_name, NAME_CHARS)
                .placeholder("webservers-2026")
                .required()
                .judged(create),
            kinds: kinds
                .iter()
                .map(|(kind, text)| Choice::of(kind.name(), text, &forms.create_kind))
                .collect(),
            import: vec![
                Field::line("name", "Name", &forms.import_name, NAME_CHARS)
                    .hint("From the key’s comment if it is empty.")
                    .judged(import),
                text.required().judged(import),
                Field::password("passphrase", "Its passphrase, if it has one").judged(import),
            ],
        }
    }
}

/// `GET /keys/{id}`, and the answer to its forms. They send to `/keys/{id}/…`: `rename` name; `default`; `certificate`
/// certificate; `certificate/remove`; `rotate` to, servers, tag, verify_old; `delete` confirm.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/key.html")]
pub struct KeyPage {
    pub chrome: Chrome,
    key: KeyRow,
    public_key: String,
    install_command: String,
    source_path: Option<String>,
    uses: Vec<UseRow>,
    uses_left_out: usize,
    unfinished: String,
    certificate: Option<CertificateRows>,
    certificate_field: Field,
    new_name: Field,
    /// The keys that may take its place.
    others: Vec<Choice>,
    rotate: Vec<Field>,
    delete_refused: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct UseRow {
    server: String,
    login: &'static str,
    username: String,
    named: bool,
}

impl UseRow {
    fn all(detail: &KeyDetail) -> Vec<Self> {
        let mut uses: Vec<&KeyUseView> = detail.used_by.iter().collect();
        uses.sort_by(|left, right| natural_text(&left.server_name, &right.server_name));
        uses.into_iter().take(USES_SHOWN).map(Self::new).collect()
    }

    fn new(of: &KeyUseView) -> Self {
        Self {
            server: of.server_name.clone(),
            login: match of.login {
                LoginOf::Main => "main login",
                LoginOf::Actions => "actions",
            },
            username: view::clean(&of.username, 64),
            named: of.named,
        }
    }
}

#[derive(Debug, Clone)]
struct CertificateRows {
    badge: Badge,
    key_id: String,
    serial: u64,
    principals: String,
    from: When,
    until: Option<When>,
    options: String,
    authority: String,
}

impl CertificateRows {
    fn new(of: &CertificateView, now: Timestamp) -> Self {
        Self {
            badge: validity(of.validity),
            key_id: view::clean(&of.key_id, view::CELL_CHARS),
            serial: of.serial,
            principals: view::clean(&of.principals.join(", "), view::TEXT_CHARS),
            from: When::new(Some(of.valid_after), now),
            until: of.valid_before.map(|end| When::new(Some(end), now)),
            options: view::clean(&of.critical_options.join(", "), view::TEXT_CHARS),
            authority: of.authority.clone(),
        }
    }
}

impl KeyPage {
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        detail: &KeyDetail,
        keys: &[KeySummary],
        forms: &KeyForms,
        now: Timestamp,
    ) -> Self {
        let rotate = forms.problems_of("rotate");
        let row = KeyRow::new(&detail.key, now);
        let new_name = if forms.sent == "rename" { &forms.new_name } else { &detail.key.name };
        Self {
            chrome: Chrome::new(&row.name, Section::Keys, None, viewer, now),
            public_key: detail.key.public_key.clone(),
            install_command: detail.install_command.clone(),
            source_path: detail.key.source_path.as_deref().map(|path| view::clean(path, view::CELL_CHARS)),
            uses: UseRow::all(detail),
            uses_left_out: detail.used_by.len().saturating_sub(USES_SHOWN),
            unfinished: detail.unfinished.join(", "),
            certificate: detail.key.certificate.as_ref().map(|of| CertificateRows::new(of, now)),
            certificate_field: Field::lines("certificate", "Certificate", "", KEY_TEXT_CHARS)
                .placeholder("ssh-ed25519-cert-v01@openssh.com AAAA…")
                .hint("The line of a file that ends in -cert.pub; ssh-keygen -s CA -I NAME -n USER KEY.pub makes it.")
                .required()
                .judged(forms.problems_of("certificate")),
            new_name: Field::line("name", "Name", new_name, NAME_CHARS)
                .required()
                .judged(forms.problems_of("rename")),
            others: keys
                .iter()
                .filter(|other| other.id != detail.key.id)
                .map(|other| {
                    let name = view::clean(&other.name, view::CELL_CHARS);
                    Choice::of(&other.id.to_string(), &name, &forms.rotate_to)
                })
                .collect(),
            rotate: vec![
                Field::line("servers", "Only on these servers", &forms.rotate_servers, 10_000)
                    .placeholder("web-1 web-2")
                    .hint("Names with blanks between them; empty: all that use it.")
                    .judged(rotate),
                Field::line("tag", "Only with this tag", &forms.rotate_tag, 63).judged(rotate),
            ],
            delete_refused: match (detail.key.is_default, detail.used_by.is_empty()) {
                (true, _) => Some("It is the default key: make another one the default first."),
                (_, false) => Some("Servers log in with it: replace it there first."),
                _ => None,
            },
            key: row,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{key_detail, now, viewer};

    #[test]
    fn a_private_key_never_comes_back_into_the_form() {
        let forms = KeyForms {
            sent: "import",
            import_name: "x".to_owned(),
            problems: vec![FieldProblem { field: "private_key".to_owned(), sentence: "No key.".to_owned() }],
            ..KeyForms::default()
        };
        let detail = key_detail();
        let page = KeysPage::new(
            &viewer(Role::Admin),
            std::slice::from_ref(&detail.key),
            Some(&detail),
            &forms,
            now(),
        );
        let html = page.render().unwrap();
        assert!(html.contains("No key.") && html.contains("value=\"x\""));
        let (_, field) = html.split_once("name=\"private_key\"").unwrap();
        let (_, value) = field.split_once('>').unwrap();
        assert_eq!(value.split("</textarea>").next().unwrap().trim(), "");
    }

    #[test]
    fn a_key_shows_where_it_is_used_and_how_its_certificate_stands() {
        let html = KeyPage::new(&viewer(Role::Viewer), &key_detail(), &[], &KeyForms::default(), now());
        let html = html.render().unwrap();
        for shown in ["web-1", "actions", "deploy", "Ends soon", "authorized_keys", "SHA256:"] {
            assert!(html.contains(shown), "{shown}");
        }
        assert!(!html.contains("/delete"), "a viewer changes nothing");
    }

    #[test]
    fn what_a_key_is_called_is_text() {
        let mut detail = key_detail();
        detail.key.name = "<script>alert(1)</script>".to_owned();
        let html =
            KeyPage::new(&viewer(Role::Admin), &detail, &[], &KeyForms::default(), now()).render().unwrap();
        assert!(!html.contains("<script>alert") && html.contains("&#60;script&#62;alert"));
    }
}
