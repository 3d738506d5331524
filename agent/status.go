package agent

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// topic is one of the things that must be well for the node to be ready.
type topic string

const (
	topicConfig     topic = "network configuration"
	topicDatapath   topic = "datapath"
	topicLease      topic = "lease"
	topicStore      topic = "store"
	topicFirewall   topic = "firewall"
	topicSubnetFile topic = "subnet file"
	topicBackend    topic = "backend"
)

var errNotYet = errors.New("not done yet")

// status collects what is well and what is not.
type status struct {
	mu     sync.Mutex
	topics []topic
	errs   map[topic]error
	ready  func()
}

// newStatus returns a status in which nothing is well; ready is called once,
// when everything first is.
func newStatus(ready func(), topics ...topic) *status {
	s := &status{topics: topics, errs: map[topic]error{}, ready: ready}
	for _, t := range topics {
		s.errs[t] = errNotYet
	}
	return s
}

// set records how a topic is; nil is well.
func (s *status) set(t topic, err error) {
	if ready := s.record(t, err); ready != nil {
		ready()
	}
}

// record returns what is to be called, without the lock: it may ask for err.
func (s *status) record(t topic, err error) (ready func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs[t] = err
	if slices.ContainsFunc(s.topics, func(t topic) bool { return s.errs[t] != nil }) {
		return nil
	}
	ready, s.ready = s.ready, nil
	return ready
}

// all returns how each topic is.
func (s *status) all() map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]error, len(s.topics))
	for _, t := range s.topics {
		out[string(t)] = s.errs[t]
	}
	return out
}

// err joins all that is not well; nil when everything is.
func (s *status) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, t := range s.topics {
		if err := s.errs[t]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t, err))
		}
	}
	return errors.Join(errs...)
}
