//! What the library calls back: the host key gate, refusal of channels that a server opens, and the end.
//!
//! Holds no connection and sends nothing.

use std::sync::{Arc, OnceLock};

use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelId, Error, Names};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::{Clock as _, SystemClock};

use super::algorithms::Negotiated;
use super::certificate::Certificate;
use super::hostkey::{HostKey, Offered, Trust, Verdict, judge_host_key};
use super::printable;
use super::target::Target;
use super::wire::Ride;

/// What a connection learns from its handler, which lives and dies with the library's own task.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// The host key that the server proved to have.
    pub(super) host_key: Arc<OnceLock<HostKey>>,
    /// What was made of it.
    pub(super) verdict: Arc<OnceLock<Verdict>>,
    /// The algorithms of the first key exchange.
    pub(super) negotiated: Arc<OnceLock<Negotiated>>,
    /// Why the session ended, cleaned and cut.
    pub(super) reason: Arc<OnceLock<String>>,
    /// Cancelled when the session has ended, for whatever reason.
    pub(super) ended: CancellationToken,
    pub(super) ride: Arc<Ride>,
}

#[derive(Debug)]
pub(super) struct Gatekeeper {
    pinned: Option<HostKey>,
    authorities: Arc<[HostKey]>,
    revoked: Arc<[HostKey]>,
    host: String,
    /// The host showed a certificate.
    certified: bool,
    observed: Observed,
    _ended_when_dropped: DropGuard,
}

impl Gatekeeper {
    pub(super) fn new(target: &Target, ride: Arc<Ride>) -> (Self, Observed) {
        let observed = Observed {
            host_key: Arc::default(),
            verdict: Arc::default(),
            negotiated: Arc::default(),
            reason: Arc::default(),
            ended: CancellationToken::new(),
            ride,
        };
        let gatekeeper = Self {
            pinned: target.pinned.clone(),
            authorities: Arc::clone(&target.authorities),
            revoked: Arc::clone(&target.revoked),
            host: target.bare_host().to_owned(),
            certified: false,
            observed: observed.clone(),
            _ended_when_dropped: observed.ended.clone().drop_guard(),
        };
        (gatekeeper, observed)
    }
}

impl Handler for Gatekeeper {
    type Error = Error;

    /// Runs after the signature of the key exchange was checked and before anything is sent that is secret. Of a certificate
    /// the library has checked only that the host owns the key inside; all else is for [`judge_host_key`].
    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Error> {
        let offered = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => Offered::Key(HostKey::of(key)),
            PublicKeyOrCertificate::Certificate(certificate) => {
                Offered::Certificate(Box::new(Certificate::of(certificate.clone())))
            }
        };
        self.certified = matches!(offered, Offered::Certificate(_));
        let trust = Trust {
            pinned: self.pinned.as_ref(),
            authorities: &self.authorities,
            revoked: &self.revoked,
            host: &self.host,
            now: SystemClock.now(),
        };
        let verdict = judge_host_key(&trust, &offered);
        let trusted = verdict == Verdict::Trusted;
        let _first_stays = self.observed.host_key.set(offered.key());
        let _first_stays = self.observed.verdict.set(verdict);
        Ok(trusted)
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        names: &Names,
        _session: &mut Session,
    ) -> Result<(), Error> {
        let _first_stays = self.observed.negotiated.set(Negotiated::of(names, self.certified));
        Ok(())
    }

    /// The library's own close of the channel is written right after this.
    async fn channel_close(&mut self, _channel: ChannelId, _session: &mut Session) -> Result<(), Error> {
        self.observed.ride.answer_follows();
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Error>) -> Result<(), Error> {
        let text = match &reason {
            DisconnectReason::ReceivedDisconnect(info) => info.message.clone(),
            DisconnectReason::Error(Error::Disconnect | Error::HUP) => "the server closed it".to_owned(),
            DisconnectReason::Error(Error::KeepaliveTimeout) => "the server stopped answering".to_owned(),
            DisconnectReason::Error(error) => error.to_string(),
        };
        let _first_stays = self.observed.reason.set(printable::line(text.as_bytes(), 200));
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => Err(error),
        }
    }

    // The library accepts whatever channel a server opens. Roundsman never asked for one: dropping the reply refuses it.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _connected_address: &str,
        _connected_port: u32,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        Ok(())
    }
}
