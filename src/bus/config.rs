//! How DaemonEye says where the bus is, and how a client is to behave.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::broker::BrokerOptions;
use crate::client::{ConnectOptions, ReturnPace};
use crate::error::{EventBusError, Result};
use crate::identity::LaunchToken;

/// Where the bus is, and what one of its ends may hold.
///
/// [`ClientConfig::connect_options`] and [`broker_options`](Self::broker_options) say in the bus's own words what comes of it.
///
/// ```
/// use daemoneye_eventbus::SocketConfig;
///
/// let socket = SocketConfig::new("staging");
/// assert_eq!(socket.get_socket_path(), "/tmp/daemoneye-staging.sock");
/// assert_eq!(socket.windows_pipe, r"\\.\pipe\DaemonEye-staging");
/// ```
#[derive(Clone)]
pub struct SocketConfig {
    /// The socket of the broker.
    pub unix_path: String,
    /// Its pipe, on Windows. Elsewhere it is not looked at.
    pub windows_pipe: String,
    /// Connections that a broker takes, in all, the agent's own session among them. Not looked at by clients.
    pub connection_limit: usize,
    /// The socket of the broker on FreeBSD, if it is another one there.
    #[cfg(target_os = "freebsd")]
    pub freebsd_path: Option<String>,
    /// A launch token, as [`LaunchToken::to_text`] writes it. Of a client; a broker [issues](crate::DaemoneyeBroker::issue_token) them.
    pub auth_token: Option<String>,
    /// Bytes that may wait for one subscription; 0 for what [`ConnectOptions::queue_bytes`] has at first.
    pub per_client_byte_limit: usize,
    /// Has no effect: what a session may ask in a second is the broker's to say, and the same for all. Anything but `None` is warned of once.
    pub rate_limit_config: Option<RateLimitConfig>,
    /// Has no effect: the bus keeps no correlations, and so nothing of them can pile up. Anything but `None` is warned of once.
    pub correlation_config: Option<CorrelationTrackerConfig>,
}

/// See [`SocketConfig::rate_limit_config`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitConfig {}

/// See [`SocketConfig::correlation_config`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CorrelationTrackerConfig {}

impl SocketConfig {
    /// The bus of an instance, `default` being the one that has no name: `/tmp/daemoneye.sock`. What is no name of an
    /// [`Instance`](crate::Instance) makes a path at which there is no broker.
    #[must_use]
    pub fn new(instance: &str) -> Self {
        let unix_path = match instance {
            DEFAULT_INSTANCE => crate::config::SOCKET_PATH.to_owned(),
            _ => format!("/tmp/daemoneye-{instance}.sock"),
        };
        Self {
            unix_path,
            windows_pipe: format!(r"\\.\pipe\DaemonEye-{instance}"),
            connection_limit: crate::config::SESSIONS_MAX,
            #[cfg(target_os = "freebsd")]
            freebsd_path: None,
            auth_token: None,
            per_client_byte_limit: crate::config::QUEUE_BYTES,
            rate_limit_config: None,
            correlation_config: None,
        }
    }

    /// Where the broker is on this platform.
    #[must_use]
    pub fn get_socket_path(&self) -> String {
        #[cfg(target_os = "freebsd")]
        if let Some(path) = &self.freebsd_path {
            return path.clone();
        }
        self.unix_path.clone()
    }

    /// A broker there, with these limits.
    ///
    /// # Errors
    /// [`EventBusError::Configuration`]: it takes no connection, or is to have a launch token, which it issues itself.
    ///
    /// ```
    /// use daemoneye_eventbus::{DaemoneyeBroker, SocketConfig};
    ///
    /// let broker = DaemoneyeBroker::with_options(SocketConfig::new("staging").broker_options()?)?;
    /// assert_eq!(broker.path().to_str(), Some("/tmp/daemoneye-staging.sock"));
    /// # Ok::<(), daemoneye_eventbus::EventBusError>(())
    /// ```
    pub fn broker_options(&self) -> Result<BrokerOptions> {
        if self.connection_limit == 0 {
            return Err(EventBusError::configuration("a broker with a connection_limit of 0 is for nobody"));
        }
        if self.auth_token.is_some() {
            return Err(EventBusError::configuration("an auth_token is a client's: a broker issues them"));
        }
        self.warn();
        let options = BrokerOptions::new(self.get_socket_path()).connection_limit(self.connection_limit);
        Ok(match self.per_client_byte_limit {
            0 => options,
            bytes => options.queue_bytes(bytes),
        })
    }

    fn warn(&self) {
        warn_of(0, "rate_limit_config", self.rate_limit_config.is_some());
        warn_of(1, "correlation_config", self.correlation_config.is_some());
    }
}

/// The instance that has no name.
const DEFAULT_INSTANCE: &str = "default";

/// How a client is to behave.
///
/// ```
/// use daemoneye_eventbus::ClientConfig;
///
/// let config = ClientConfig { max_reconnect_attempts: 3, ..ClientConfig::default() };
/// assert_eq!(config.backoff_multiplier, 2.0);
/// ```
#[derive(Clone)]
pub struct ClientConfig {
    /// How often a client tries in vain to come back to its broker before it gives up; 10 at first, 0 to give up at once.
    pub max_reconnect_attempts: u32,
    /// How long it waits before the first of these tries; 100 ms at first.
    pub initial_reconnect_delay: Duration,
    /// How long it waits at most; 30 s at first.
    pub max_reconnect_delay: Duration,
    /// By how much each pause is longer than the one before it; 2 at first, at least 1.
    pub backoff_multiplier: f64,
    /// How long it waits for the broker's answers, to connecting and to each request; 5 s at first.
    pub connection_timeout: Duration,
    /// Has no effect, as all that is said of health: the kernel tells a client when its broker is gone. Anything but 30 s is warned of once.
    pub health_check_interval: Duration,
    /// Has no effect. Anything but 5 s is warned of once.
    pub health_check_timeout: Duration,
    /// Has no effect. Anything but `PING` is warned of once.
    pub health_check_request: Vec<u8>,
    /// Has no effect. Anything but `PONG` is warned of once.
    pub health_check_response: Vec<u8>,
    /// A launch token: see [`SocketConfig::auth_token`], for which it stands in. Where both have one they must be the same.
    pub auth_token: Option<String>,
    /// Has no effect: publishing waits for nobody, and so takes no permits. Anything but 1,000 is warned of once.
    pub semaphore_permits: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            max_reconnect_attempts: 10,
            initial_reconnect_delay: Duration::from_millis(100),
            max_reconnect_delay: Duration::from_secs(30),
            backoff_multiplier: 2.0,
            connection_timeout: Duration::from_secs(5),
            health_check_interval: Duration::from_secs(30),
            health_check_timeout: Duration::from_secs(5),
            health_check_request: b"PING".to_vec(),
            health_check_response: b"PONG".to_vec(),
            auth_token: None,
            semaphore_permits: 1000,
        }
    }
}

impl ClientConfig {
    /// The same in the bus's own words, for a client with this id at this socket.
    ///
    /// # Errors
    /// [`EventBusError::Configuration`] says which field can't be what it is.
    ///
    /// ```
    /// use daemoneye_eventbus::{ClientConfig, SocketConfig};
    ///
    /// let shrinking = ClientConfig { backoff_multiplier: 0.5, ..ClientConfig::default() };
    /// let error = shrinking.connect_options("procmond", &SocketConfig::new("default")).expect_err("ever faster");
    /// assert!(error.to_string().contains("0.5"), "{error}");
    /// ```
    pub fn connect_options(&self, client_id: &str, socket: &SocketConfig) -> Result<ConnectOptions> {
        let cannot = |why: &dyn fmt::Display| EventBusError::configuration(why.to_string());
        let Self { initial_reconnect_delay, max_reconnect_delay, backoff_multiplier, .. } = *self;
        let pace = ReturnPace::new(initial_reconnect_delay, max_reconnect_delay, backoff_multiplier);
        let pace = pace.map_err(|error| cannot(&error))?.attempts(self.max_reconnect_attempts);
        let token = match (&self.auth_token, &socket.auth_token) {
            (Some(one), Some(other)) if one != other => {
                return Err(cannot(&"the client and its socket have different auth_tokens"));
            }
            (one, other) => one.as_deref().or(other.as_deref()),
        };
        let token = token.map(LaunchToken::from_text).transpose();
        let token = token.map_err(|error| cannot(&format_args!("auth_token: {error}")))?;
        socket.warn();
        self.warn();
        let options = ConnectOptions::new(client_id)
            .path(socket.get_socket_path())
            .deadline(self.connection_timeout)
            .return_pace(pace);
        let options = match socket.per_client_byte_limit {
            0 => options,
            bytes => options.queue_bytes(bytes),
        };
        Ok(match token {
            Some(token) => options.token(token),
            None => options,
        })
    }

    fn warn(&self) {
        let usual = Self::default();
        warn_of(2, "health_check_interval", self.health_check_interval != usual.health_check_interval);
        warn_of(3, "health_check_timeout", self.health_check_timeout != usual.health_check_timeout);
        warn_of(4, "health_check_request", self.health_check_request != usual.health_check_request);
        warn_of(5, "health_check_response", self.health_check_response != usual.health_check_response);
        warn_of(6, "semaphore_permits", self.semaphore_permits != usual.semaphore_permits);
    }
}

/// What was warned of by this process, by the bits of the fields.
static WARNED: AtomicU32 = AtomicU32::new(0);

/// Warns of a field that was set and has no effect, the first time.
fn warn_of(bit: u32, field: &'static str, is_set: bool) {
    if is_set && WARNED.fetch_or(1 << bit, Ordering::Relaxed) & (1 << bit) == 0 {
        tracing::warn!(name: "config_without_effect", target: "daemoneye_eventbus::client", field, "this field of the configuration has no effect");
    }
}

/// Says whether there is a token, and not which.
fn is_there(token: Option<&String>) -> Option<&'static str> {
    token.map(|_| "…")
}

impl fmt::Debug for SocketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketConfig")
            .field("path", &self.get_socket_path())
            .field("windows_pipe", &self.windows_pipe)
            .field("connection_limit", &self.connection_limit)
            .field("auth_token", &is_there(self.auth_token.as_ref()))
            .field("per_client_byte_limit", &self.per_client_byte_limit)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("max_reconnect_attempts", &self.max_reconnect_attempts)
            .field("initial_reconnect_delay", &self.initial_reconnect_delay)
            .field("max_reconnect_delay", &self.max_reconnect_delay)
            .field("backoff_multiplier", &self.backoff_multiplier)
            .field("connection_timeout", &self.connection_timeout)
            .field("auth_token", &is_there(self.auth_token.as_ref()))
            .finish_non_exhaustive()
    }
}
