//! The kinds of instances, each shown by one real service.

use std::time::Duration;

use pollwatch::{Action, Watchdog};
use pollwatch_shed::Shed;

use crate::blocking;
use crate::service::{BILLING, Handlers, SHOP, Service, Size};

/// A threshold that the short polls of a flood do not reach.
const FLOOD_THRESHOLD: Duration = Duration::from_millis(100);
/// Conditions are incidents, and make `/healthz` answer 503, from then on.
const SOON: Duration = Duration::from_secs(2);

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Healthy,
    SmallHealthy,
    /// Some of its routes block.
    Stalling,
    /// As before, with more sites and routes than its limits allow, a callback that panics, and
    /// tasks that leak. It records what is optional.
    Troubled,
    /// Its incident is due for an action that fails.
    AllWorkersBlocked,
    DriverUnattended,
    Hung,
    PoolFull,
    /// It rejects requests.
    Late,
    /// It answers no scrape.
    Down,
}

impl Kind {
    /// All kinds, with one service each but for `Down`.
    pub(crate) const ALL: [Kind; 10] = [
        Kind::Healthy,
        Kind::SmallHealthy,
        Kind::Stalling,
        Kind::Troubled,
        Kind::AllWorkersBlocked,
        Kind::DriverUnattended,
        Kind::Hung,
        Kind::PoolFull,
        Kind::Late,
        Kind::Down,
    ];

    /// The kind of an instance. Of each hundred, eight are in trouble, four stall, and one does not
    /// answer; the others are healthy, one in four of them small. Among the first eight each
    /// trouble occurs.
    pub(crate) fn of(instance: usize) -> Kind {
        match instance % 100 {
            0 => Kind::Troubled,
            1 => Kind::AllWorkersBlocked,
            2 => Kind::DriverUnattended,
            3 => Kind::Hung,
            4 => Kind::PoolFull,
            5 => Kind::Late,
            6 => Kind::Down,
            7 | 30 | 50 | 70 => Kind::Stalling,
            n if n.is_multiple_of(4) => Kind::SmallHealthy,
            _ => Kind::Healthy,
        }
    }

    /// The size of the service.
    pub(crate) fn size(self) -> Size {
        match self {
            Kind::Healthy | Kind::Stalling | Kind::Troubled | Kind::Late | Kind::Down => SHOP,
            _ => BILLING,
        }
    }

    /// Returns the time between two requests. Each request wakes a worker, which ends a hang and
    /// attends the driver.
    fn pause(self) -> Duration {
        match self {
            Kind::DriverUnattended | Kind::Hung => Duration::from_secs(5),
            _ => Duration::from_millis(50),
        }
    }

    /// Starts the service of this kind; none for one that does not answer.
    pub(crate) fn start(self) -> Result<Option<Service>, Box<dyn std::error::Error>> {
        let handlers = match self {
            Kind::Stalling | Kind::Troubled => Handlers::Blocking,
            _ => Handlers::Healthy,
        };
        let shed = Shed::new().log(false);
        let mut builder = Watchdog::builder().unhealthy_after(SOON);
        match self {
            Kind::Down => return Ok(None),
            Kind::Troubled => {
                builder = builder.max_sites(40).max_routes(30).track_unpolled(true).route_histograms(true);
                builder = builder.on_stall(|_| blocking::panic());
            }
            Kind::AllWorkersBlocked => builder = builder.on_incident(SOON, Action::call(|_| blocking::panic())),
            Kind::DriverUnattended => builder = builder.rescue_driver(false),
            Kind::Late => builder = builder.threshold(FLOOD_THRESHOLD).collector(shed.collector()),
            Kind::PoolFull => builder = builder.blocking_pool_full_after(SOON),
            _ => {}
        }
        let shed = (self == Kind::Late).then_some(&shed);
        let service = Service::start(self.size(), self.pause(), builder, handlers, shed)?;
        self.cause_trouble(&service);
        Ok(Some(service))
    }

    fn cause_trouble(self, service: &Service) {
        let (watchdog, runtime) = (&service.watchdog, &service.runtime);
        match self {
            Kind::Troubled => blocking::leak_tasks(watchdog.clone(), runtime),
            Kind::AllWorkersBlocked => blocking::block_all_workers(watchdog.clone(), runtime.handle().clone()),
            Kind::DriverUnattended => blocking::leave_driver_unattended(watchdog, runtime),
            Kind::Hung => blocking::hang(runtime.handle().clone()),
            Kind::PoolFull => blocking::fill_blocking_pool(runtime),
            Kind::Late => blocking::flood(watchdog, runtime),
            Kind::Healthy | Kind::SmallHealthy | Kind::Stalling | Kind::Down => {}
        }
    }
}
