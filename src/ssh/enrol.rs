//! Enrolment by password: installs a public key over a login that is used once.
