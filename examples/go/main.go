// A client in Go, from the contract and grpc-go alone: it searches with a deadline and reads the receipt, changes the
// catalogue, reads its own write, and goes on writing while the primary is killed.
//
// Roles are told through standard health checking: with round_robin and a healthCheckConfig, a channel over all
// replicas sends reads to those that serve them and writes to the primary, whoever that is. A write whose outcome is
// not known is sent again with the same event_id, which makes it happen once.
//
// Build and run it from the project's folder:
//
//	scripts/examples.sh go
//	.build/examples/go/shop -targets 127.0.0.1:7461,127.0.0.1:7462 -writes 20
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // without it healthCheckConfig is ignored
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	pb "muster.example/shop/musterv1"
)

const (
	rankingService   = "muster.v1.RankingService"
	catalogueService = "muster.v1.CatalogueService"
	deadlineKey      = "muster-deadline-unix-us"

	attemptTime = time.Second // a primary that hangs must not use up the whole deadline
	pauseMin    = 5 * time.Millisecond
	pauseMax    = 100 * time.Millisecond
)

// connect opens a channel over all replicas that uses those whose health says that they serve the service.
func connect(targets []string, service string) (*grpc.ClientConn, error) {
	replicas := manual.NewBuilderWithScheme("muster")
	var addresses []resolver.Address
	for _, target := range targets {
		addresses = append(addresses, resolver.Address{Addr: target})
	}
	replicas.InitialState(resolver.State{Addresses: addresses})
	config := fmt.Sprintf(`{
		"loadBalancingConfig": [{"round_robin": {}}],
		"healthCheckConfig": {"serviceName": %q},
		"methodConfig": [{
			"name": [{"service": %q}],
			"retryPolicy": {
				"maxAttempts": 4, "initialBackoff": "0.005s", "maxBackoff": "0.05s", "backoffMultiplier": 2,
				"retryableStatusCodes": ["UNAVAILABLE"]
			}
		}]
	}`, service, service)
	return grpc.NewClient(
		"muster:///replicas",
		grpc.WithResolvers(replicas),
		grpc.WithAuthority(targets[0]),
		grpc.WithDefaultServiceConfig(config),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
}

// withBudget gives a call its deadline, and tells the server the absolute one, so that it knows the true remainder
// whatever the network took.
func withBudget(parent context.Context, budget time.Duration) (context.Context, context.CancelFunc) {
	call, cancel := context.WithTimeout(parent, budget)
	deadline, _ := call.Deadline()
	return metadata.AppendToOutgoingContext(call, deadlineKey, strconv.FormatInt(deadline.UnixMicro(), 10)), cancel
}

// apply sends a batch until its outcome is known, or the budget is spent. It says how often it was sent.
func apply(catalogue pb.CatalogueServiceClient, budget time.Duration, events ...*pb.Event) (*pb.ApplyResponse, int, error) {
	whole, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	pause := pauseMin
	for sendings := 1; ; sendings++ {
		call, done := withBudget(whole, attemptTime)
		answer, err := catalogue.Apply(call, &pb.ApplyRequest{Events: events}, grpc.WaitForReady(true))
		done()
		if err == nil {
			return answer, sendings, nil
		}
		switch status.Code(err) {
		case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded:
			// Nothing was written, or nobody knows: the same events, with the same ids, settle it.
		default:
			return nil, sendings, err
		}
		select {
		case <-whole.Done():
			return nil, sendings, fmt.Errorf("the outcome of the write is unknown: %w", err)
		case <-time.After(pause):
			pause = min(2*pause, pauseMax)
		}
	}
}

func search(ranking pb.RankingServiceClient, query string, budget time.Duration) error {
	call, cancel := withBudget(context.Background(), budget)
	defer cancel()
	answer, err := ranking.Search(call, &pb.SearchRequest{Query: query, PageSize: 3}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for _, product := range answer.Results {
		fmt.Printf("  %s  %s\n", product.ProductId, product.Title)
	}
	receipt := answer.Receipt
	fmt.Printf(
		"receipt: tier %s, depth %d, %d candidates, worth %.0f%%, reason %s, %d us, by %s\n",
		receipt.Tier, receipt.Depth, receipt.Candidates, 100*receipt.ExpectedNdcg, receipt.Reason,
		receipt.Timings.TotalUs, receipt.Replica,
	)
	return nil
}

func newEventID() string {
	return rand.Text()
}

func run(targets []string, query string, budget, patience time.Duration, writes int) error {
	reads, err := connect(targets, rankingService)
	if err != nil {
		return err
	}
	defer reads.Close()
	toPrimary, err := connect(targets, catalogueService)
	if err != nil {
		return err
	}
	defer toPrimary.Close()
	ranking, catalogue := pb.NewRankingServiceClient(reads), pb.NewCatalogueServiceClient(toPrimary)

	if err := search(ranking, query, budget); err != nil {
		return fmt.Errorf("search: %w", err)
	}

	kettle := &pb.Product{ProductId: "example-go-kettle", Title: "Kettle of the example in Go", Brand: "Example"}
	created, _, err := apply(catalogue, patience, &pb.Event{
		EventId: newEventID(), Change: &pb.Event_Upsert{Upsert: kettle},
	})
	if err != nil {
		return fmt.Errorf("upsert: %w", err)
	}

	// Any replica may answer; min_sequence makes it wait until it has seen the write.
	call, cancel := withBudget(context.Background(), patience)
	defer cancel()
	seen, err := pb.NewCatalogueServiceClient(reads).Get(
		call, &pb.GetRequest{ProductId: kettle.ProductId, MinSequence: created.Sequence}, grpc.WaitForReady(true),
	)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	fmt.Printf("read its own write: %s at sequence %d\n", seen.Product.Title, created.Sequence)

	for number := 1; number <= writes; number++ {
		stock := int64(number)
		answer, sendings, err := apply(catalogue, patience, &pb.Event{
			EventId: newEventID(),
			Change:  &pb.Event_Patch{Patch: &pb.Patch{ProductId: kettle.ProductId, Stock: &stock}},
		})
		if err != nil {
			return fmt.Errorf("write %d: %w", number, err)
		}
		fmt.Printf("write %d: sequence %d, epoch %d, sent %d times\n", number, answer.Sequence, answer.Epoch, sendings)
		time.Sleep(100 * time.Millisecond)
	}
	return search(ranking, query, budget)
}

func main() {
	targets := flag.String("targets", "127.0.0.1:7461,127.0.0.1:7462", "every replica as host:port, joined by commas")
	query := flag.String("query", "wireless mouse", "what the shopper typed")
	budget := flag.Duration("deadline", 500*time.Millisecond, "time for a search")
	patience := flag.Duration("write-deadline", 30*time.Second, "time for a write, takeover included")
	writes := flag.Int("writes", 3, "how many changes of one product to write")
	flag.Parse()
	if err := run(strings.Split(*targets, ","), *query, *budget, *patience, *writes); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.Unavailable {
			os.Exit(3)
		}
		os.Exit(1)
	}
}
