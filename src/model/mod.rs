//! The vocabulary of the product: values that every other module speaks in.
//!
//! No I/O, no SQL, no clock. Values are parsed once at the edge; what exists is valid.

mod access;
mod agent;
mod custom_metric;
mod dependency;
mod event;
mod group;
mod http;
mod ids;
mod operation;
mod reading;
mod retention;
mod sample;
mod secret;
mod selector;
mod server;
mod task;
mod time;
mod watched;
mod way_in;
mod words;

pub use access::{Actor, Caller, Reporter, Rights, Role, Scope, UnknownRole};
pub use agent::{AgentMode, InstalledAgent, ProbeKind, UnknownAgentMode};
pub use custom_metric::CustomMetric;
pub use dependency::{Dependency, cycle_through, layers};
pub use event::{Direction, Event, TaskChange};
pub use group::{Colour, Group, GroupName, InvalidGroup};
pub use http::{ApiHealth, ApiUrl, CertificatePin, Component, HttpSource, InvalidHttpServer, ca_pem};
pub use ids::{
    CustomMetricId, DependencyId, GroupId, InvalidId, KeyId, KnownHostId, OperationId, OrganizationId,
    RecordId, ServerId, SessionId, TaskId, TaskRunId, TokenId, UserId, WatchedServiceId,
};
pub use operation::{OperationStatus, ServiceVerb, Signal, TargetStatus, UnknownState, WhenBusy};
pub use reading::{ContainerUsage, ProcessUsage};
pub use retention::{InvalidRetention, RETENTION_DAYS, Retention};
pub use roundsman_agent::{
    Account, Container, CpuCore, CpuTimes, Disk, Facts, Filesystem, Gap, Interface, LoadAverage,
    LoggedInUser, Memory, Pressure, Process, Sections, Service, ServiceManager, Snapshot, TcpSockets,
    TcpStates, Temperature, Updates,
};
pub use sample::{Labels, MetricName, Sample, SeriesKey};
pub use secret::Secret;
pub use selector::{SELECTED_WORDS, Selector};
pub use server::{
    Health, InvalidServer, Layer, LoginMethod, Port, Reachability, Server, ServerName, ServerNumber, Status,
    Tag, Transport, shown,
};
pub use task::{Cause, InvalidTask, Missed, Overlap, Owner, RunStatus, Task, TaskRun};
pub use time::Timestamp;
pub use watched::WatchedService;
pub use way_in::{
    ActionLogin, BlindSpot, Findings, Login, ProxyAddress, ProxyScheme, SecretKind, UnknownSecret, WayIn,
};
