package servers

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/idem-go/idem/bench/internal/stores"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/redisstore"
)

func redis(ctx context.Context, s *Servers, o Options) (all []Comparison, err error) {
	store, closeStore, err := openRedis(ctx, s.Redis.DSN(), "idem:")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	peer, err := sameScripts(ctx, s.Redis.Addr(), s.Redis.DSN())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, peer.client.Close()) }()
	for _, c := range []Comparison{{Callers: 1}, {Callers: 64}, {Callers: 256, AtLeast: 1.7}} {
		c.Name, c.Peer = "Redis, claim and completion", "go-redis with the same scripts"
		c, err := o.compare(ctx, c, stores.Driver(store), peer)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	few, closeFew, err := openRedis(ctx, s.Redis.DSN(), "few:")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeFew()) }()
	many, closeMany, err := openRedis(ctx, s.Redis.DSN(), "many:")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeMany()) }()
	c, err := o.held(ctx, "Redis", stores.Driver(few), stores.Driver(many))
	return append(all, c), err
}

func openRedis(ctx context.Context, dsn, prefix string) (*redisstore.Store, func() error, error) {
	opts := &redisstore.Options{Prefix: prefix}
	client, err := redisstore.Connect(ctx, dsn)
	if err != nil {
		return nil, nil, err
	}
	if err := redisstore.Migrate(ctx, client, opts); err != nil {
		client.Close()
		return nil, nil, err
	}
	s, err := redisstore.New(ctx, client, opts)
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	return s, func() error {
		defer client.Close()
		return s.Close()
	}, nil
}

// goRedis makes the same calls as the store, by another client: it repeats what
// the store was seen to send, with other keys and tokens.
type goRedis struct {
	client *goredis.Client
	// key and token are those of the calls that were seen.
	key             driver.Key
	token           [8]byte
	claim, complete []string
	partitions      int
}

// sameScripts looks on while the store makes one claim and completes it.
func sameScripts(ctx context.Context, addr, dsn string) (*goRedis, error) {
	tap, err := listenTap(addr)
	if err != nil {
		return nil, err
	}
	defer tap.close()
	const prefix = "peer:"
	store, closeStore, err := openRedis(ctx, strings.Replace(dsn, addr, tap.addr(), 1), prefix)
	if err != nil {
		return nil, err
	}
	g := &goRedis{key: driver.KeyOf("peer", "peer")}
	req := driver.ClaimRequest{
		Key: g.key, Scope: "127.0.0.1/anonymous", ID: "8e03978e-40d5-43e8-bc93-0006f3a1c2d4a100", Nonce: driver.NewNonce(),
		Fingerprint: driver.Fingerprint{Rule: 1, Sum: g.key}, Lease: 30e9, Tombstone: 720 * 3600e9,
	}
	reply, err := store.Claim(ctx, req)
	if err == nil {
		binary.BigEndian.PutUint64(g.token[:], reply.Record.Token)
		_, err = store.Complete(ctx, driver.Ref{Key: g.key, Token: reply.Record.Token}, driver.Completion{
			Result: driver.Result{Body: bytes.Repeat([]byte{'r'}, 1<<10)}, Scope: req.Scope, ID: req.ID, Fingerprint: req.Fingerprint,
			Retention: 24 * 3600e9, Tombstone: 720 * 3600e9,
		})
	}
	if err = errors.Join(err, closeStore()); err != nil {
		return nil, err
	}
	for _, command := range tap.commands() {
		whole := strings.Join(command, "")
		switch {
		case !strings.EqualFold(command[0], "EVALSHA") || !strings.Contains(whole, string(g.key[:])):
		case strings.Contains(whole, strings.Repeat("r", 1<<10)):
			g.complete = command
		case strings.Contains(whole, string(req.Nonce[:])):
			g.claim = command
		}
	}
	if g.claim == nil || g.complete == nil {
		return nil, errors.New("the store was not seen to claim and complete a key")
	}
	g.client = goredis.NewClient(&goredis.Options{Addr: addr})
	format, err := g.client.Get(ctx, prefix+"format").Result()
	if err == nil {
		_, err = fmt.Sscanf(format, "1 partitions=%d", &g.partitions)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the format %q: %w", format, err), g.client.Close())
	}
	return g, nil
}

// Pair implements stores.Pairs.
func (g *goRedis) Pair(ctx context.Context, n uint64, _ []byte) error {
	key := driver.KeyOf("peer", fmt.Sprint(n))
	said, err := g.client.Do(ctx, g.with(g.claim, key, g.token)...).Int64()
	if err != nil || said <= 0 {
		return errors.Join(err, fmt.Errorf("a claim got %d", said))
	}
	var token [8]byte
	binary.BigEndian.PutUint64(token[:], uint64(said))
	said, err = g.client.Do(ctx, g.with(g.complete, key, token)...).Int64()
	if err != nil || said != 0 {
		return errors.Join(err, fmt.Errorf("a completion got %d", said))
	}
	return nil
}

// with is a command that was seen, with another key and token.
func (g *goRedis) with(command []string, key driver.Key, token [8]byte) []any {
	index := fmt.Sprintf("peer:{%03x}", int(binary.BigEndian.Uint16(key[:]))&(g.partitions-1))
	args := make([]any, len(command))
	for i, a := range command {
		switch i {
		case 0, 1, 2:
			args[i] = a
		case 3:
			args[i] = index + string(key[:])
		case 4:
			args[i] = index
		default:
			args[i] = strings.Replace(a, string(g.token[:]), string(token[:]), 1)
		}
	}
	return args
}
