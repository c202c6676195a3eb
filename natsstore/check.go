package natsstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/driver"
)

// oldest is the oldest version of the server that is known to do.
const oldestMajor, oldestMinor = 2, 11

// Check looks at the server and at the bucket, and says of each setting that
// keeps or breaks the promise what it means. An error says that nothing could be
// looked at.
func Check(ctx context.Context, nc *nats.Conn, o *Options) ([]driver.Finding, error) {
	s, err := bare(nc, o)
	if err != nil {
		return nil, err
	}
	defer s.end()
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	info, err := s.measure(bounded)
	if err != nil {
		return nil, s.outcome(ctx, err)
	}
	return s.findings(info), nil
}

// findings are what is found out about a bucket.
func (s *Store) findings(info *jetstream.StreamInfo) []driver.Finding {
	c := &info.Config
	var all []driver.Finding
	add := func(severity driver.Severity, subject, found, means, remedy string) {
		all = append(all, driver.Finding{Severity: severity, Subject: subject, Found: found, Means: means, Remedy: remedy})
	}
	good := func(subject, found string) { add(driver.SeverityOK, subject, found, "", "") }

	version := s.nc.ConnectedServerVersion()
	if supported(version) {
		good("server version", version)
	} else {
		add(driver.SeverityError, "server version", version, "it lacks what the store needs.",
			fmt.Sprintf("Upgrade the servers to %d.%d or newer.", oldestMajor, oldestMinor))
	}
	if err := s.ours(c); err != nil {
		add(driver.SeverityError, "metadata "+formatKey, strconv.Quote(c.Metadata[formatKey]), "the bucket is not idem's, or of another version.",
			"Name another bucket and run `idem store migrate`, or use the version of idem that made it.")
	} else {
		good("metadata "+formatKey, format)
	}
	wrong := s.wrong(c)
	for _, w := range wrong {
		add(driver.SeverityError, w.name, w.found, w.means, "Run `idem store migrate`.")
	}
	if len(wrong) == 0 {
		good("bucket settings", "as made")
	}
	if c.Storage == jetstream.FileStorage {
		good("storage", "file")
	} else {
		add(driver.SeverityError, "storage", c.Storage.String(), "a restart of the servers forgets everything.",
			"Make the bucket with file storage: name another one and run `idem store migrate`.")
	}
	if c.Mirror != nil || len(c.Sources) > 0 {
		add(driver.SeverityError, "mirror or sources", "set", "records come from elsewhere, and the writes of owners do not order them.",
			"Name a bucket of idem's own and run `idem store migrate`.")
	}
	if c.Sealed {
		add(driver.SeverityError, "sealed", "true", "nothing can be written.", "Name another bucket and run `idem store migrate`.")
	}
	if s.notifies(c) {
		good("republish", "set")
	} else {
		add(driver.SeverityWarning, "republish", "not set", "whoever waits learns of an end by asking now and then only.", "Run `idem store migrate`.")
	}
	s.addReplicas(info, add)
	if s.opts.SyncAlways {
		good("sync_interval", "always, as the options say")
	} else {
		add(driver.SeverityUnknown, "sync_interval", "a client cannot read it; by default 2m",
			"a power cut takes back what was acknowledged since the last sync, with replicas too when most lose power together.",
			"Set `jetstream { sync_interval: always }` on every server, and then sync=always in the DSN.")
	}
	if m := s.nc.MaxPayload(); m < 4*overhead {
		add(driver.SeverityError, "max_payload", fmt.Sprint(m), "there is hardly room for a result beside the rest of a record.", "Raise the servers' max_payload to 1 MiB or more.")
	} else {
		good("max_payload", fmt.Sprint(m))
	}
	switch used := info.State.Bytes; {
	case c.MaxBytes <= 0:
		good("max_bytes", "no bound of the bucket's own")
	case used > uint64(c.MaxBytes)/10*9:
		add(driver.SeverityWarning, "max_bytes", fmt.Sprintf("%d of %d bytes are used", used, c.MaxBytes),
			"claims of new keys are refused.", "Raise the bucket's max_bytes.")
	default:
		good("max_bytes", fmt.Sprintf("%d of %d bytes are used", used, c.MaxBytes))
	}
	return all
}

// addReplicas says what the number of replicas means, and how they are.
func (s *Store) addReplicas(info *jetstream.StreamInfo, add func(severity driver.Severity, subject, found, means, remedy string)) {
	n := info.Config.Replicas
	clustered := info.Cluster != nil && info.Cluster.Name != ""
	switch {
	case n >= 3:
		add(driver.SeverityOK, "replicas", fmt.Sprint(n), "", "")
	case clustered:
		add(driver.SeverityWarning, "replicas", fmt.Sprint(n), "when its one server is away nothing is answered, and when its disk is lost everything is forgotten.",
			fmt.Sprintf("Run `nats stream edit %s --replicas 3`.", s.stream))
	default:
		add(driver.SeverityWarning, "replicas", "1, on a server without a cluster", "when the server is away nothing is answered, and when its disk is lost everything is forgotten.",
			"Run a cluster of three servers, and a bucket with replicas=3.")
	}
	if info.Cluster == nil || n < 2 {
		return
	}
	var behind []string
	for _, r := range info.Cluster.Replicas {
		if r.Offline || !r.Current && r.Active > time.Minute {
			behind = append(behind, r.Name)
		}
	}
	switch {
	case len(behind) > 0:
		add(driver.SeverityWarning, "replicas that are away", strings.Join(behind, ", "), "one more that goes away may stop the bucket.", "Bring these servers back.")
	default:
		add(driver.SeverityOK, "replicas that are away", "none", "", "")
	}
}

// supported reports that a version such as 2.15.2 is new enough.
func supported(version string) bool {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(major)
	if err != nil {
		return false
	}
	b, err := strconv.Atoi(minor)
	if err != nil {
		return false
	}
	return a > oldestMajor || a == oldestMajor && b >= oldestMinor
}
