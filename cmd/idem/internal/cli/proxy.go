package cli

import (
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/cmd/idem/internal/stores"
	"github.com/idem-go/idem/idemhttp"
)

// maxStored is the largest response that every store takes.
const maxStored = 1 << 30

// proxyFlags are the flags of idem proxy, as they were given.
type proxyFlags struct {
	upstream, listen, admin string

	store      storeFlags
	scope      scope
	requireKey bool
	wait       duration
	onUnknown  choice[idem.UnknownPolicy]

	lease, retention, tombstone, maxRun, saveWait duration
	maxRequestBody, maxStoredResponse             size
	maxUnknown                                    count

	upstreamTimeout, upstreamIdleTimeout, drain duration

	adminTokenFile string
	adminHosts     []string
	logJSON        choice[bool]
	logLevel       choice[slog.Level]
}

func newProxy() *cobra.Command {
	f := &proxyFlags{
		scope:               scope{text: "authorization", principal: idemhttp.AuthorizationPrincipal()},
		wait:                duration{d: idem.DefaultWait},
		onUnknown:           choice[idem.UnknownPolicy]{words: unknownWords()},
		lease:               duration{d: idem.DefaultLease, min: 100 * time.Millisecond},
		retention:           duration{d: idem.DefaultRetention, min: 1},
		tombstone:           duration{d: idem.DefaultTombstone, min: 1},
		maxRun:              duration{d: idem.DefaultMaxRun, min: 1},
		saveWait:            duration{d: idem.DefaultSaveWait, min: 1},
		maxRequestBody:      idemhttp.DefaultMaxRequestBody,
		maxStoredResponse:   idemhttp.DefaultMaxStoredResponse,
		maxUnknown:          100_000,
		upstreamTimeout:     duration{d: 60 * time.Second},
		upstreamIdleTimeout: duration{d: 4 * time.Second, min: 1},
		drain:               duration{d: 30 * time.Second},
		logJSON:             choice[bool]{words: logWords()},
		logLevel:            choice[slog.Level]{value: slog.LevelInfo, words: levelWords()},
	}
	cmd := &cobra.Command{
		Use:   "proxy --upstream URL [flags]",
		Short: "Serve in front of an HTTP service, so that its POSTs can be sent again",
		Long: `proxy passes requests on to a service. A POST or PATCH with an Idempotency-Key
takes effect once: whoever sends it again, at the same time or later, gets the
first answer, also after the proxy was killed and started again.

An outcome that cannot be known (the service broke off, the proxy was killed
while it worked) is refused until somebody resolves it on the admin address.

At SIGTERM it stops listening and lets the requests that run end, for at most
--drain. It exits with 0; with 1 when requests were cut off or something went
wrong while it served; with 2 when it could not start.`,
		Example: `  idem proxy --upstream http://127.0.0.1:3000
  idem proxy --upstream http://10.0.0.7:3000 --listen :80 --store file:/var/lib/idem --scope header:X-Tenant
  idem proxy --upstream http://10.0.0.7:3000 --store-file /etc/idem/store
  curl 127.0.0.1:9090/v1/records?state=unknown`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := f.check()
			if err != nil {
				return err
			}
			return runProxy(cmd.Context(), s, cmd.ErrOrStderr())
		},
	}
	f.define(cmd)
	return cmd
}

func (f *proxyFlags) define(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.upstream, "upstream", "", "the `URL` of the service to protect, such as http://127.0.0.1:3000; needed")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8080", "where clients ask, `HOST:PORT`; an empty host is every address")
	f.store.define(fs, "file:./idem-data")
	fs.StringVar(&f.admin, "admin", "127.0.0.1:9090", "where health, metrics and records are, `HOST:PORT`")

	fs.Var(&f.scope, "scope", "who asks, so that two callers may use the same key: by the Authorization header, by a header of that name, or one caller only")
	fs.BoolVar(&f.requireKey, "require-key", false, "refuse a POST or PATCH without an Idempotency-Key")
	fs.Var(&f.wait, "wait", "how long a second request waits for the first; 0s answers 409 at once")
	fs.Var(&f.onUnknown, "on-unknown", "a retry whose first outcome is unknown: refuse it until somebody resolves it, or run it again")

	fs.Var(&f.lease, "lease", "how long a claim outlives the last word of its owner")
	fs.Var(&f.retention, "retention", "how long a response is replayed")
	fs.Var(&f.tombstone, "tombstone", "how long a key is refused after that, and how long an unknown outcome is kept")
	fs.Var(&f.maxRun, "max-run", "how long one request may run; then its outcome is unknown")
	fs.Var(&f.saveWait, "save-wait", "how long a response waits for a store that does not take its record")
	fs.Var(&f.maxRequestBody, "max-request-body", "the largest body of a request with a key; 413 past it")
	fs.Var(&f.maxStoredResponse, "max-stored-response", "the largest response that is replayed, its headers included")
	fs.Var(&f.maxUnknown, "max-unknown", "the most unknown outcomes that are kept; past it new keys get 503")

	fs.Var(&f.upstreamTimeout, "upstream-timeout", "how long the service may take to its response's head, and between parts of its body; 0s for ever")
	fs.Var(&f.upstreamIdleTimeout, "upstream-idle-timeout", "how long an unused connection to the service is kept; shorter than the service's own")
	fs.Var(&f.drain, "drain", "how long requests that run may take to end at SIGTERM")

	fs.StringVar(&f.adminTokenFile, "admin-token-file", "", "a `FILE` with the bearer token that the admin address demands; needed unless it is a loopback")
	fs.StringSliceVar(&f.adminHosts, "admin-host", nil, "another host `NAME` under which the admin address may be asked; may be repeated")
	fs.Var(&f.logJSON, "log", "the form of the log on stderr")
	fs.Var(&f.logLevel, "log-level", "the least that is logged")
}

// proxySettings are flags that fit together.
type proxySettings struct {
	*proxyFlags
	upstream *url.URL
	store    stores.DSN
	token    string
}

// check reads the flags as a whole. It opens and creates nothing.
func (f *proxyFlags) check() (*proxySettings, error) {
	s := &proxySettings{proxyFlags: f}
	var err error
	if s.upstream, err = parseUpstream(f.upstream); err != nil {
		return nil, err
	}
	if s.store, err = f.store.dsn(); err != nil {
		return nil, err
	}
	if f.maxStoredResponse > maxStored {
		return nil, usage("--max-stored-response "+f.maxStoredResponse.String()+" is more than a store takes", "give 1GiB at most")
	}
	listen, err := parseAddress("--listen", f.listen)
	if err != nil {
		return nil, err
	}
	admin, err := parseAddress("--admin", f.admin)
	if err != nil {
		return nil, err
	}
	if listen.meets(admin) {
		return nil, usage(fmt.Sprintf("--listen %s and --admin %s are one address", f.listen, f.admin), "give them two ports: what stands on the admin address is not for clients")
	}
	if f.adminTokenFile != "" {
		if s.token, err = readToken(f.adminTokenFile); err != nil {
			return nil, err
		}
	} else if !admin.loopback() {
		return nil, usage(fmt.Sprintf("--admin %s can be reached from other machines and has no token", f.admin), "give one with --admin-token-file, or bind it to 127.0.0.1")
	}
	return s, nil
}

func parseUpstream(text string) (*url.URL, error) {
	const hint = "give the service's address, such as --upstream http://127.0.0.1:3000"
	if text == "" {
		return nil, usage("--upstream is missing", hint)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, usage("--upstream is not an http or https URL with a host", hint)
	case u.User != nil:
		return nil, usage("--upstream holds a user or a password, which are not sent to the service", "leave them out; what clients send as Authorization is passed on")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, usage("--upstream has a query or a fragment", "give scheme, host and path only")
	}
	return u, nil
}
