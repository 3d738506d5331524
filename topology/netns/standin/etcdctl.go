package standin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// errEtcdctl is the answer to everything that the stand-in cannot do.
var errEtcdctl = errors.New(`this is overlab's stand-in for etcdctl, which speaks to the lab's own etcd. It knows
  etcdctl put KEY VALUE
  etcdctl get KEY [--prefix] [--keys-only] [--print-value-only]
  etcdctl del KEY [--prefix]
  etcdctl watch KEY [--prefix]`)

// etcdTimeout bounds one exchange with the store.
const etcdTimeout = 5 * time.Second

// etcdFlags are those that etcdctl's own commands have under these names.
type etcdFlags struct {
	endpoints                    string
	prefix, keysOnly, valuesOnly bool
	args                         []string
}

func parseEtcdctl(args []string) (etcdFlags, error) {
	var f etcdFlags
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, has := strings.Cut(arg, "=")
		switch {
		case arg == "--":
			f.args = append(f.args, args...)
			return f, nil
		case name == "--endpoints":
			if !has && len(args) > 0 {
				value, args = args[0], args[1:]
			}
			f.endpoints = value
		case arg == "--prefix":
			f.prefix = true
		case arg == "--keys-only":
			f.keysOnly = true
		case arg == "--print-value-only":
			f.valuesOnly = true
		case strings.HasPrefix(arg, "-"):
			return f, fmt.Errorf("no flag %s here; %w", arg, errEtcdctl)
		default:
			f.args = append(f.args, arg)
		}
	}
	return f, nil
}

// store is the URL of the plan's store, empty where it is no etcd. Any node's
// address will do that holds it: etcd listens on all.
func (w *World) store() string {
	n := w.Plan.Node(w.Plan.Store.Node)
	if w.Plan.Store.Type != "etcd" || n == nil {
		return ""
	}
	return "http://" + net.JoinHostPort(n.Underlay().Address.Addr().String(), strconv.Itoa(w.Plan.Store.Port))
}

func (w *World) etcdctl(args []string) error {
	f, err := parseEtcdctl(args)
	if err != nil {
		return err
	}
	wanted := map[string]int{"put": 3, "get": 2, "del": 2, "watch": 2}
	if len(f.args) == 0 || wanted[f.args[0]] != len(f.args) {
		return errEtcdctl
	}
	if f.endpoints == "" {
		f.endpoints = w.Store
	}
	if f.endpoints == "" {
		return fmt.Errorf("the store of this lab is %q, not etcd", w.Plan.Store.Type)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(f.endpoints, ","), Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("connect to %s: %w", f.endpoints, err)
	}
	err = w.askEtcd(c, f)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer from %s in %v", f.endpoints, etcdTimeout)
	}
	return errors.Join(err, c.Close())
}

func (w *World) askEtcd(c *clientv3.Client, f etcdFlags) error {
	var options []clientv3.OpOption
	if f.prefix {
		options = append(options, clientv3.WithPrefix())
	}
	verb, key := f.args[0], f.args[1]
	if verb == "watch" {
		return w.watchEtcd(c, key, options)
	}
	ctx, cancel := context.WithTimeout(context.Background(), etcdTimeout)
	defer cancel()
	switch verb {
	case "put":
		if _, err := c.Put(ctx, key, f.args[2]); err != nil {
			return err
		}
		_, err := fmt.Fprintln(w.Out, "OK")
		return err
	case "del":
		r, err := c.Delete(ctx, key, options...)
		if err == nil {
			_, err = fmt.Fprintln(w.Out, r.Deleted)
		}
		return err
	}
	r, err := c.Get(ctx, key, options...)
	if err != nil {
		return err
	}
	for _, kv := range r.Kvs {
		if !f.valuesOnly {
			fmt.Fprintf(w.Out, "%s\n", kv.Key)
		}
		if !f.keysOnly {
			fmt.Fprintf(w.Out, "%s\n", kv.Value)
		}
	}
	return nil
}

// watchEtcd prints each change until it is interrupted.
func (w *World) watchEtcd(c *clientv3.Client, key string, options []clientv3.OpOption) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	for r := range c.Watch(ctx, key, options...) {
		if err := r.Err(); err != nil {
			return err
		}
		for _, e := range r.Events {
			fmt.Fprintf(w.Out, "%s\n%s\n%s\n", e.Type, e.Kv.Key, e.Kv.Value)
		}
	}
	return nil
}
