// A client in TypeScript, from the contract, grpc-js and proto-loader alone: it searches with a deadline and reads the
// receipt, changes the catalogue, reads its own write, and goes on writing while the primary is killed.
//
// Roles are told through standard health checking. grpc-js does not check health by itself, so this client asks: reads
// go to any replica whose RankingService is SERVING, writes to the one whose CatalogueService is. A write whose outcome
// is not known is sent again with the same event_id, which makes it happen once.
//
// Build and run it from the project's folder:
//
//	scripts/examples.sh typescript
//	node .build/examples/typescript/out/shop.js --targets 127.0.0.1:7461,127.0.0.1:7462 --writes 20

import { randomUUID } from 'node:crypto';
import * as path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import * as grpc from '@grpc/grpc-js';
import * as loader from '@grpc/proto-loader';
import { service as healthService } from 'grpc-health-check';

import type { ProtoGrpcType as CatalogueTypes } from './generated/catalogue';
import type { ApplyResponse__Output } from './generated/muster/v1/ApplyResponse';
import type { CatalogueServiceClient } from './generated/muster/v1/CatalogueService';
import type { Event } from './generated/muster/v1/Event';
import type { RankingServiceClient } from './generated/muster/v1/RankingService';
import type { SearchResponse__Output } from './generated/muster/v1/SearchResponse';
import type { ProtoGrpcType as RankingTypes } from './generated/ranking';

const RANKING = 'muster.v1.RankingService';
const CATALOGUE = 'muster.v1.CatalogueService';

const ATTEMPT_MS = 1_000; // a primary that hangs must not use up the whole deadline
const HEALTH_MS = 300;
const PAUSE_MIN_MS = 5;
const PAUSE_MAX_MS = 100;

const { muster } = grpc.loadPackageDefinition(
  loader.loadSync(['muster/v1/ranking.proto', 'muster/v1/catalogue.proto'], {
    includeDirs: [path.join(__dirname, '..', 'proto')],
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  }),
) as unknown as RankingTypes & CatalogueTypes;
const HealthClient = grpc.makeGenericClientConstructor(healthService, 'Health');

type Method<Request, Response> = (
  request: Request,
  metadata: grpc.Metadata,
  options: grpc.CallOptions,
  callback: (error: grpc.ServiceError | null, response?: Response) => void,
) => grpc.ClientUnaryCall;

/** Calls with a deadline, and tells the server the absolute one: the true remainder whatever the network took. */
function call<Request, Response>(method: Method<Request, Response>, request: Request, budgetMs: number) {
  const deadline = Date.now() + Math.max(0, budgetMs);
  const metadata = new grpc.Metadata();
  metadata.set('muster-deadline-unix-us', String(deadline * 1000));
  return new Promise<Response>((resolve, reject) => {
    method(request, metadata, { deadline }, (error, response) => {
      if (error !== null || response === undefined) reject(error ?? new Error('no response'));
      else resolve(response);
    });
  });
}

function codeOf(error: unknown): grpc.status {
  return (error as Partial<grpc.ServiceError>).code ?? grpc.status.UNKNOWN;
}

/** One replica, by the channels to it. */
class Replica {
  readonly ranking: RankingServiceClient;
  readonly catalogue: CatalogueServiceClient;
  private readonly health: grpc.Client & Record<string, Function>;

  constructor(address: string) {
    const plain = grpc.credentials.createInsecure();
    const options = {
      'grpc.initial_reconnect_backoff_ms': 50, // grpc-js waits a second by default
      'grpc.max_reconnect_backoff_ms': 500,
    };
    this.ranking = new muster.v1.RankingService(address, plain, options);
    this.catalogue = new muster.v1.CatalogueService(address, plain, options);
    this.health = new HealthClient(address, plain, options) as unknown as typeof this.health;
  }

  /** Whether it says through standard health checking that it serves this service. */
  async serves(service: string): Promise<boolean> {
    try {
      const check = this.health['check']!.bind(this.health) as Method<{ service: string }, { status: string }>;
      return (await call(check, { service }, HEALTH_MS)).status === 'SERVING';
    } catch {
      return false; // not there, or hung
    }
  }

  close() {
    this.ranking.close();
    this.catalogue.close();
    this.health.close();
  }
}

/** All replicas of one catalogue. */
class Shop {
  private readonly replicas: Replica[];

  constructor(targets: string[]) {
    this.replicas = targets.map((target) => new Replica(target));
  }

  close() {
    this.replicas.forEach((replica) => replica.close());
  }

  /** The first replica to say that it serves; undefined: none does. */
  private async serving(service: string): Promise<Replica | undefined> {
    const asked = this.replicas.map(async (replica) => {
      if (!(await replica.serves(service))) throw new Error('not serving');
      return replica;
    });
    return Promise.any(asked).catch(() => undefined);
  }

  /** Sends to a replica that serves, and on to the next one after a failure that says nothing about the request. */
  private async send<Response>(
    service: string,
    budgetMs: number,
    resent: grpc.status[],
    attempt: (replica: Replica, leftMs: number) => Promise<Response>,
  ): Promise<{ response: Response; sendings: number }> {
    const end = Date.now() + budgetMs;
    let failure: unknown = new Error(`no replica serves ${service}`);
    let sendings = 0;
    for (let pauseMs = PAUSE_MIN_MS; ; pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS)) {
      const replica = await this.serving(service);
      if (replica !== undefined) {
        sendings += 1;
        try {
          return { response: await attempt(replica, Math.min(ATTEMPT_MS, end - Date.now())), sendings };
        } catch (error) {
          failure = error;
          if (!resent.includes(codeOf(error))) throw error;
        }
      }
      if (Date.now() + pauseMs >= end) throw failure;
      await sleep(pauseMs);
    }
  }

  async search(query: string, budgetMs: number): Promise<SearchResponse__Output> {
    const { UNAVAILABLE } = grpc.status;
    const sent = await this.send(RANKING, budgetMs, [UNAVAILABLE], (replica, leftMs) =>
      call<object, SearchResponse__Output>(replica.ranking.Search.bind(replica.ranking), { query, pageSize: 3 }, leftMs),
    );
    return sent.response;
  }

  /** Reads a product from any replica that has applied the sequence. */
  async title(productId: string, minSequence: number, budgetMs: number): Promise<string> {
    const { UNAVAILABLE, DEADLINE_EXCEEDED } = grpc.status;
    const sent = await this.send(RANKING, budgetMs, [UNAVAILABLE, DEADLINE_EXCEEDED], (replica, leftMs) =>
      call<object, { product: { title: string } | null }>(
        replica.catalogue.Get.bind(replica.catalogue),
        { productId, minSequence },
        leftMs,
      ),
    );
    return sent.response.product?.title ?? '';
  }

  /** Writes a batch at the primary, again and again with the same ids until the outcome is known. */
  apply(events: Event[], budgetMs: number): Promise<{ response: ApplyResponse__Output; sendings: number }> {
    const { UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED } = grpc.status;
    // Nothing was written, or nobody knows: the same events, with the same ids, settle it.
    return this.send(CATALOGUE, budgetMs, [UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED], (replica, leftMs) =>
      call<object, ApplyResponse__Output>(replica.catalogue.Apply.bind(replica.catalogue), { events }, leftMs),
    );
  }
}

function show(answer: SearchResponse__Output) {
  for (const product of answer.results) console.log(`  ${product.productId}  ${product.title}`);
  const receipt = answer.receipt!;
  console.log(
    `receipt: tier ${receipt.tier}, depth ${receipt.depth}, ${receipt.candidates} candidates, ` +
      `worth ${(100 * receipt.expectedNdcg).toFixed(0)}%, reason ${receipt.reason}, ` +
      `${receipt.timings?.totalUs} us, by ${receipt.replica}`,
  );
}

async function main() {
  const { values } = parseArgs({
    options: {
      targets: { type: 'string', default: '127.0.0.1:7461,127.0.0.1:7462' },
      query: { type: 'string', default: 'wireless mouse' },
      'deadline-ms': { type: 'string', default: '500' },
      'write-deadline-ms': { type: 'string', default: '30000' },
      writes: { type: 'string', default: '3' },
    },
  });
  const shop = new Shop(values.targets.split(','));
  const budgetMs = Number(values['deadline-ms']);
  const patienceMs = Number(values['write-deadline-ms']);
  const productId = 'example-typescript-kettle';
  try {
    show(await shop.search(values.query, budgetMs));

    const upsert = { productId, title: 'Kettle of the example in TypeScript', brand: 'Example' };
    const created = await shop.apply([{ eventId: randomUUID(), upsert }], patienceMs);
    const title = await shop.title(productId, created.response.sequence, patienceMs);
    console.log(`read its own write: ${title} at sequence ${created.response.sequence}`);

    for (let number = 1; number <= Number(values.writes); number++) {
      const patch = { productId, stock: number };
      const { response, sendings } = await shop.apply([{ eventId: randomUUID(), patch }], patienceMs);
      console.log(`write ${number}: sequence ${response.sequence}, epoch ${response.epoch}, sent ${sendings} times`);
      await sleep(100);
    }
    show(await shop.search(values.query, budgetMs));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    const { UNAVAILABLE, DEADLINE_EXCEEDED } = grpc.status;
    const code = error instanceof Error && 'code' in error ? codeOf(error) : UNAVAILABLE;
    process.exitCode = [UNAVAILABLE, DEADLINE_EXCEEDED].includes(code) ? 3 : 1;
  } finally {
    shop.close();
  }
}

void main();
