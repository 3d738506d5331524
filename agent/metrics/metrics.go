// Package metrics shows what an agent does to Prometheus. Every name begins
// with overlab_agent_; docs/agent.md lists them.
package metrics

import (
	"math"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/overlab/overlab/agent"
	"github.com/overlab/overlab/agent/datapath"
)

const prefix = "overlab_agent_"

// topicStore is the topic of agent.Agent.Topics that has a metric of its own.
const topicStore = "store"

// Metrics is the Observer of one agent, with a registry of its own.
type Metrics struct {
	registry *prometheus.Registry

	leases, unreadable prometheus.Gauge
	wanted, present    *prometheus.GaugeVec
	changes            *prometheus.CounterVec
	repairs            *prometheus.CounterVec
	reconcile          *prometheus.HistogramVec
	errors             prometheus.Counter
	renewals           *prometheus.CounterVec
	expiry             prometheus.Gauge
}

var _ agent.Observer = (*Metrics)(nil)

// New returns metrics in which nothing has happened yet. version is the
// program's.
func New(version string) *Metrics {
	m := &Metrics{
		registry:   prometheus.NewRegistry(),
		leases:     gauge("leases", "Leases in the store, the node's own and reservations included."),
		unreadable: gauge("leases_unreadable", "Keys in the store whose value cannot be read; the last readable value stays in force."),
		wanted:     gauges("entries_desired", "Entries that the kernel ought to hold, by kind.", "kind"),
		present:    gauges("entries", "Entries that the kernel holds of what the agent owns, by kind.", "kind"),
		changes:    counters("changes_total", "Changes that the agent made to the kernel, by reason and kind.", "reason", "kind"),
		repairs:    counters("repairs_total", "What was deleted or altered by others and was put right, by kind.", "kind"),
		reconcile: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "reconcile_duration_seconds",
			Help: "Time from knowing that the kernel must change to its last answer, by reason; passes that find nothing to change are not counted.",
			// 100 µs to 3.3 s, in doublings.
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 16),
		}, []string{"reason"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "reconcile_errors_total", Help: "Passes of which the kernel refused a part; it is tried again.",
		}),
		renewals: counters("lease_renewals_total", "Attempts to renew the node's lease, by result.", "result"),
		expiry:   gauge("lease_expiry_timestamp_seconds", "When the node's lease ends unless it is renewed, in seconds since 1970; +Inf for one that never ends, 0 without a lease."),
	}
	// What can be counted is there from the start, as 0.
	for kind := range datapath.NewState().Count() {
		m.repairs.WithLabelValues(kind)
		m.present.WithLabelValues(kind)
		m.wanted.WithLabelValues(kind)
	}
	for _, kind := range []string{"firewall", "subnet_file"} {
		m.repairs.WithLabelValues(kind)
	}
	for _, result := range []string{"success", "failure"} {
		m.renewals.WithLabelValues(result)
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: prefix + "build_info", Help: "1, with what the program was built from as labels.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(
		m.leases, m.unreadable, m.wanted, m.present, m.changes, m.repairs, m.reconcile, m.errors, m.renewals, m.expiry, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help})
}

func gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + name, Help: help}, labels)
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
}

// Watch adds the readiness of each topic, which is asked for with every
// scrape; nil is well. It is to be called once.
func (m *Metrics) Watch(topics func() map[string]error) {
	m.registry.MustRegister(&readiness{
		topics: topics,
		ready:  prometheus.NewDesc(prefix+"ready", "1 where the topic is well; the node is ready when every topic is.", []string{"topic"}, nil),
		store:  prometheus.NewDesc(prefix+"store_connected", "1 while the store's changes arrive.", nil, nil),
	})
}

// Handler serves the metrics in Prometheus' text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Leases implements agent.Observer.
func (m *Metrics) Leases(known, unreadable int) {
	m.leases.Set(float64(known))
	m.unreadable.Set(float64(unreadable))
}

// Entries implements agent.Observer.
func (m *Metrics) Entries(want, have datapath.State) {
	for kind, n := range want.Count() {
		m.wanted.WithLabelValues(kind).Set(float64(n))
	}
	for kind, n := range have.Count() {
		m.present.WithLabelValues(kind).Set(float64(n))
	}
}

// Reconciled implements agent.Observer.
func (m *Metrics) Reconciled(why string, took time.Duration, made []datapath.Change, err error) {
	m.reconcile.WithLabelValues(why).Observe(took.Seconds())
	if err != nil {
		m.errors.Inc()
	}
	for _, c := range made {
		m.changes.WithLabelValues(why, c.Kind()).Inc()
		if why == agent.ReasonRepair {
			m.repairs.WithLabelValues(c.Kind()).Inc()
		}
	}
}

// Repaired implements agent.Observer.
func (m *Metrics) Repaired(what string) { m.repairs.WithLabelValues(what).Inc() }

// Leased implements agent.Observer.
func (m *Metrics) Leased(until time.Time) {
	if until.IsZero() {
		m.expiry.Set(math.Inf(1))
		return
	}
	m.expiry.Set(float64(until.UnixMilli()) / 1000)
}

// Renewed implements agent.Observer.
func (m *Metrics) Renewed(err error) {
	result := "success"
	if err != nil {
		result = "failure"
	}
	m.renewals.WithLabelValues(result).Inc()
}

// readiness is a collector of what is asked for with every scrape.
type readiness struct {
	topics       func() map[string]error
	ready, store *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (r *readiness) Describe(out chan<- *prometheus.Desc) {
	out <- r.ready
	out <- r.store
}

// Collect implements prometheus.Collector.
func (r *readiness) Collect(out chan<- prometheus.Metric) {
	for topic, err := range r.topics() {
		well := 0.0
		if err == nil {
			well = 1
		}
		if topic == topicStore {
			out <- prometheus.MustNewConstMetric(r.store, prometheus.GaugeValue, well)
		}
		out <- prometheus.MustNewConstMetric(r.ready, prometheus.GaugeValue, well, strings.ReplaceAll(topic, " ", "_"))
	}
}
