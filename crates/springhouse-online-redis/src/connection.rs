//! Connections: opened when first used, thrown away when they fail, opened again by who needs one next.

use crate::error::{ends_connection, from_redis, invalid, timed_out, unavailable};
use crate::settings::{RedisMode, RedisSettings};
use parking_lot::{Mutex, RwLock};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_read_routing::RandomReplicaStrategy;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisError,
    ServerErrorKind, TlsCertificates, TlsMode, Value,
};
use springhouse_online::{BoxFuture, StoreError, StoreStatistics};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a connection that could not be opened is not tried again: its callers fail at once meanwhile.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// Connections that are had alone, for transactions; opened when needed, beside the others.
const OWN_LINES: usize = 4;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Any connection.
    Read,
    /// The connection on which everything is written, so that its commands stay in order.
    Write,
}

/// A connection that answers commands of many callers at once.
#[derive(Clone)]
enum Line {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Line {
    async fn run(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = match self {
            Self::One(line) => line.req_packed_command(command).await,
            Self::Cluster(line) => line.req_packed_command(command).await,
        };
        // What the server refuses comes as a value.
        answer?.extract_error()
    }

    async fn run_all(&mut self, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let answers = match self {
            Self::One(line) => line.req_packed_commands(commands, 0, commands.len()).await?,
            Self::Cluster(line) => {
                let answers = line.req_packed_commands(commands, 0, commands.len()).await?;
                if answers.iter().any(is_elsewhere) {
                    return self.run_each(commands).await;
                }
                answers
            }
        };
        answers.into_iter().map(Value::extract_error).collect()
    }

    /// One after the other: single commands find where their keys have gone.
    async fn run_each(&mut self, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands.cmd_iter() {
            answers.push(self.run(command).await?);
        }
        Ok(answers)
    }
}

/// True when a node says that it does not have the key.
fn is_elsewhere(answer: &Value) -> bool {
    let Value::ServerError(error) = answer else { return false };
    matches!(error.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain))
}

/// Where a connection belongs.
struct Place {
    /// Commands that only read go to replicas too. Never the first place: what is read there is written back, changed.
    reads_replicas: bool,
    line: RwLock<Option<(u64, Line)>>,
    opening: tokio::sync::Mutex<Option<(tokio::time::Instant, StoreError)>>,
}

/// All connections of a store.
pub(crate) struct Connections {
    settings: RedisSettings,
    places: Vec<Place>,
    next: AtomicU32,
    numbers: AtomicU64,
    in_flight: AtomicU32,
    exhausted: AtomicU64,
    opened: AtomicU64,
    /// Turns to have a connection alone, and those that nobody has.
    turns: Semaphore,
    idle: Mutex<Vec<Line>>,
    runtime: OwnRuntime,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("count", &self.places.len()).finish_non_exhaustive()
    }
}

impl Connections {
    pub(crate) fn new(settings: RedisSettings) -> Result<Self, StoreError> {
        if settings.is_tls() {
            // Two providers are linked, so rustls does not choose by itself. When somebody has chosen already, that holds.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let place = |reads_replicas: bool| Place {
            reads_replicas,
            line: RwLock::new(None),
            opening: tokio::sync::Mutex::new(None),
        };
        let places: Vec<Place> = match settings.mode {
            // A Cluster's connection is itself a set of them.
            RedisMode::Cluster if settings.replica_reads => vec![place(false), place(true)],
            RedisMode::Cluster => vec![place(false)],
            _ => (0..settings.connection_count()).map(|_| place(false)).collect(),
        };
        Ok(Self {
            places,
            settings,
            next: AtomicU32::new(0),
            numbers: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            exhausted: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            turns: Semaphore::new(OWN_LINES),
            idle: Mutex::default(),
            runtime: OwnRuntime::find()?,
        })
    }

    /// Runs a future where sockets and timers work, whoever polls it.
    pub(crate) fn within<'a, T>(&self, future: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
        let runtime = self.runtime.handle();
        Box::pin(async move {
            let mut future = pin!(future);
            poll_fn(|context| {
                let _entered = runtime.enter();
                future.as_mut().poll(context)
            })
            .await
        })
    }

    pub(crate) fn statistics(&self) -> StoreStatistics {
        StoreStatistics {
            calls_in_flight: u64::from(self.in_flight.load(Ordering::Relaxed)),
            calls_in_flight_max: u64::from(self.settings.in_flight_max),
            calls_refused: self.exhausted.load(Ordering::Relaxed),
            connections_opened: self.opened.load(Ordering::Relaxed),
            ..StoreStatistics::default()
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.settings.mode == RedisMode::Cluster
    }

    /// Sends one command and waits for its answer.
    pub(crate) async fn call(
        &self,
        action: &'static str,
        access: Access,
        command: &Cmd,
    ) -> Result<Value, StoreError> {
        self.call_raw(action, access, command).await?.map_err(|error| from_redis(action, &error))
    }

    /// The same; what the server itself says is given back as it is.
    pub(crate) async fn call_raw(
        &self,
        action: &'static str,
        access: Access,
        command: &Cmd,
    ) -> Result<Result<Value, RedisError>, StoreError> {
        self.ask(action, access, async |line: &mut Line| line.run(command).await).await
    }

    /// Sends commands for keys of one shard together, and waits for all of their answers.
    pub(crate) async fn call_all(
        &self,
        action: &'static str,
        access: Access,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, StoreError> {
        let answers = self.ask(action, access, async |line: &mut Line| line.run_all(commands).await).await?;
        answers.map_err(|error| from_redis(action, &error))
    }

    async fn ask<T>(
        &self,
        action: &'static str,
        access: Access,
        run: impl AsyncFnOnce(&mut Line) -> Result<T, RedisError>,
    ) -> Result<Result<T, RedisError>, StoreError> {
        let _permit = self.permit(action)?;
        let place = self.place(access);
        let (number, mut line) = self.line(action, place).await?;
        let timeout = self.timeout(access);
        match tokio::time::timeout(timeout, run(&mut line)).await {
            Ok(Ok(value)) => Ok(Ok(value)),
            Ok(Err(error)) => {
                if ends_connection(&error) {
                    place.drop_line(number);
                }
                Ok(Err(error))
            }
            Err(_) => {
                // Perhaps nobody is there any more: the next caller finds out with a new connection.
                if !self.is_cluster() {
                    place.drop_line(number);
                }
                Err(timed_out(action, timeout))
            }
        }
    }

    /// A connection for one caller alone; waits for its turn.
    pub(crate) async fn own_line(&self, action: &'static str) -> Result<OwnLine<'_>, StoreError> {
        let turn = self.turns.acquire().await.map_err(|error| unavailable(action, error.to_string()))?;
        let permit = self.permit(action)?;
        let idle = self.idle.lock().pop();
        let was_idle = idle.is_some();
        let line = match idle {
            Some(line) => line,
            None => self.open_in_time(action, false).await?,
        };
        Ok(OwnLine { connections: self, line, was_idle, _turn: turn, _permit: permit })
    }

    /// Sends a command to one node of a Cluster.
    pub(crate) async fn call_node(
        &self,
        action: &'static str,
        host: &str,
        port: u16,
        command: Cmd,
    ) -> Result<Value, StoreError> {
        let route = SingleNodeRoutingInfo::ByAddress { host: host.to_owned(), port };
        self.route(action, RoutingInfo::SingleNode(route), command).await
    }

    /// Sends a command to every primary of a Cluster.
    pub(crate) async fn call_primaries(
        &self,
        action: &'static str,
        command: Cmd,
    ) -> Result<Vec<Value>, StoreError> {
        let routes = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        Ok(match self.route(action, routes, command).await? {
            Value::Array(answers) => answers,
            // By address, where no way of joining the answers is given.
            Value::Map(answers) => answers.into_iter().map(|(_, answer)| answer).collect(),
            answer => vec![answer],
        })
    }

    async fn route(
        &self,
        action: &'static str,
        routing: RoutingInfo,
        command: Cmd,
    ) -> Result<Value, StoreError> {
        let _permit = self.permit(action)?;
        let (_, Line::Cluster(mut line)) = self.line(action, &self.places[0]).await? else {
            return Err(invalid(action, "only a Cluster has nodes to choose from"));
        };
        let timeout = self.timeout(Access::Write);
        match tokio::time::timeout(timeout, line.route_command(command, routing)).await {
            Ok(answer) => answer.and_then(Value::extract_error).map_err(|error| from_redis(action, &error)),
            Err(_) => Err(timed_out(action, timeout)),
        }
    }

    fn timeout(&self, access: Access) -> Duration {
        Duration::from_millis(match access {
            Access::Read => self.settings.read_timeout_ms,
            Access::Write => self.settings.write_timeout_ms,
        })
    }

    fn permit(&self, action: &'static str) -> Result<Permit<'_>, StoreError> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self);
        if before >= self.settings.in_flight_max {
            self.exhausted.fetch_add(1, Ordering::Relaxed);
            return Err(unavailable(
                action,
                format!("{before} calls are under way already, `in_flight_max` allows no more"),
            ));
        }
        Ok(permit)
    }

    fn place(&self, access: Access) -> &Place {
        match access {
            Access::Write => &self.places[0],
            Access::Read => match self.places.last() {
                Some(place) if place.reads_replicas => place,
                _ => {
                    let next = self.next.fetch_add(1, Ordering::Relaxed) as usize;
                    &self.places[next % self.places.len()]
                }
            },
        }
    }

    async fn line(&self, action: &'static str, place: &Place) -> Result<(u64, Line), StoreError> {
        if let Some(line) = &*place.line.read() {
            return Ok(line.clone());
        }
        let mut failed = place.opening.lock().await;
        if let Some(line) = &*place.line.read() {
            return Ok(line.clone());
        }
        if let Some((at, error)) = &*failed
            && at.elapsed() < RECONNECT_AFTER
        {
            return Err(StoreError { action, ..error.clone() });
        }
        match self.open_in_time(action, place.reads_replicas).await {
            Ok(line) => {
                *failed = None;
                let line = (self.numbers.fetch_add(1, Ordering::Relaxed), line);
                *place.line.write() = Some(line.clone());
                Ok(line)
            }
            Err(error) => {
                *failed = Some((tokio::time::Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn open_in_time(&self, action: &'static str, reads_replicas: bool) -> Result<Line, StoreError> {
        let timeout = Duration::from_millis(self.settings.connect_timeout_ms);
        match tokio::time::timeout(timeout, self.open(action, reads_replicas)).await {
            Ok(opened) => {
                self.opened.fetch_add(u64::from(opened.is_ok()), Ordering::Relaxed);
                opened
            }
            Err(_) => Err(timed_out(action, timeout)),
        }
    }

    /// With a client made anew: passwords and certificates may have changed.
    async fn open(&self, action: &'static str, reads_replicas: bool) -> Result<Line, StoreError> {
        let login = Login {
            password: self.settings.password()?,
            sentinel_password: self.settings.sentinel_password()?,
            certificates: self.certificates()?,
            is_tls: self.settings.is_tls(),
        };
        let opened = match self.settings.mode {
            RedisMode::Standalone => self.open_server(login).await,
            RedisMode::Sentinel => self.open_primary(login).await,
            RedisMode::Cluster => self.open_cluster(login, reads_replicas).await,
        };
        opened.map_err(|error| from_redis(action, &error))
    }

    async fn open_server(&self, login: Login) -> Result<Line, RedisError> {
        let settings = &self.settings;
        let info = settings.urls[0].as_str().into_connection_info()?;
        let mut user = info.redis_settings().clone();
        if settings.database != 0 {
            user = user.set_db(settings.database);
        }
        if !settings.username.is_empty() {
            user = user.set_username(&settings.username);
        }
        if let Some(password) = login.password {
            user = user.set_password(password);
        }
        let info = info.set_redis_settings(user);
        let client = match login.certificates.filter(|_| login.is_tls) {
            Some(certificates) => redis::Client::build_with_tls(info, certificates),
            None => redis::Client::open(info),
        }?;
        client.get_multiplexed_async_connection_with_config(&without_timeouts()).await.map(Line::One)
    }

    async fn open_primary(&self, login: Login) -> Result<Line, RedisError> {
        let settings = &self.settings;
        let addresses: Vec<ConnectionAddr> = settings
            .urls
            .iter()
            .map(|url| Ok(url.as_str().into_connection_info()?.addr().clone()))
            .collect::<Result<_, RedisError>>()?;
        let mut builder =
            SentinelClientBuilder::new(addresses, &settings.sentinel_primary, SentinelServerType::Master)?
                .set_client_to_redis_db(settings.database);
        if !settings.username.is_empty() {
            builder = builder.set_client_to_redis_username(&settings.username);
        }
        if let Some(password) = login.password {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(password) = login.sentinel_password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if login.is_tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
            if let Some(certificates) = login.certificates {
                builder = builder
                    .set_client_to_sentinel_certificates(certificates.clone())
                    .set_client_to_redis_certificates(certificates);
            }
        }
        let mut client = builder.build()?;
        client.get_async_connection_with_config(&without_timeouts()).await.map(Line::One)
    }

    async fn open_cluster(&self, login: Login, reads_replicas: bool) -> Result<Line, RedisError> {
        let settings = &self.settings;
        let mut builder = ClusterClient::builder(settings.urls.iter().map(String::as_str))
            .connection_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .response_timeout(Duration::from_millis(settings.write_timeout_ms.max(settings.read_timeout_ms)))
            .retries(2);
        if !settings.username.is_empty() {
            builder = builder.username(&settings.username);
        }
        if let Some(password) = login.password {
            builder = builder.password(password);
        }
        if login.is_tls {
            builder = builder.tls(TlsMode::Secure);
            if let Some(certificates) = login.certificates {
                builder = builder.certs(certificates);
            }
        }
        if reads_replicas {
            builder = builder.read_routing_strategy(RandomReplicaStrategy);
        }
        builder.build()?.get_async_connection().await.map(Line::Cluster)
    }

    fn certificates(&self) -> Result<Option<TlsCertificates>, StoreError> {
        let settings = &self.settings;
        let read = |file: &str| {
            let unreadable = |error| invalid("open", format!("the certificate file {file}: {error}"));
            (!file.is_empty()).then(|| std::fs::read(file).map_err(unreadable)).transpose()
        };
        let root_cert = read(&settings.tls_ca_file)?;
        let client_tls = match (read(&settings.tls_cert_file)?, read(&settings.tls_key_file)?) {
            (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
            _ => None,
        };
        let is_any = root_cert.is_some() || client_tls.is_some();
        Ok(is_any.then_some(TlsCertificates { client_tls, root_cert }))
    }
}

/// How to log in.
struct Login {
    password: Option<String>,
    sentinel_password: Option<String>,
    certificates: Option<TlsCertificates>,
    is_tls: bool,
}

/// Deadlines are kept by `call`: the client's own default would cut off slow scripts.
fn without_timeouts() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None)
}

impl Place {
    /// Throws a connection away, unless somebody has already opened the next.
    fn drop_line(&self, number: u64) {
        let mut line = self.line.write();
        if line.as_ref().is_some_and(|(current, _)| *current == number) {
            *line = None;
        }
    }
}

/// A connection that nobody else uses. It is closed unless it is given back: what it has not answered yet is no answer to the
/// next.
pub(crate) struct OwnLine<'a> {
    connections: &'a Connections,
    line: Line,
    /// It was opened for somebody before.
    pub(crate) was_idle: bool,
    _turn: SemaphorePermit<'a>,
    _permit: Permit<'a>,
}

impl OwnLine<'_> {
    /// Sends commands together and waits for all of their answers; what the server itself says is given back as it is.
    pub(crate) async fn run_all(
        &mut self,
        action: &'static str,
        commands: &Pipeline,
    ) -> Result<Result<Vec<Value>, RedisError>, StoreError> {
        let timeout = self.connections.timeout(Access::Write);
        let answered = tokio::time::timeout(timeout, self.line.run_all(commands)).await;
        if !matches!(answered, Ok(Ok(_))) {
            // Who waits may well have waited for the same server.
            self.connections.idle.lock().clear();
        }
        answered.map_err(|_| timed_out(action, timeout))
    }

    pub(crate) fn give_back(self) {
        self.connections.idle.lock().push(self.line);
    }
}

struct Permit<'a>(&'a Connections);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The runtime of who opened the store, or, where there is none, one of its own.
enum OwnRuntime {
    Found(Handle),
    /// None only while dropping.
    Own(Option<Runtime>),
}

impl OwnRuntime {
    fn find() -> Result<Self, StoreError> {
        if let Ok(handle) = Handle::try_current() {
            return Ok(Self::Found(handle));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("redis-store")
            .enable_all()
            .build()
            .map_err(|error| unavailable("open", error.to_string()))?;
        Ok(Self::Own(Some(runtime)))
    }

    fn handle(&self) -> Handle {
        match self {
            Self::Found(handle) => handle.clone(),
            Self::Own(runtime) => runtime.as_ref().expect("only taken by drop").handle().clone(),
        }
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Self::Own(runtime) = self
            && let Some(runtime) = runtime.take()
        {
            // Waiting is not allowed inside another runtime, and nothing is worth waiting for.
            runtime.shutdown_background();
        }
    }
}
