// Asks a model within the limits of llmquota: pick, call, record; when refused, wait as told; when failed, retry.
//
//     java -cp postgresql.jar Ask.java ORG QUESTION...
//
// PGHOST, PGUSER and so on name the database. The secret of a key is in the environment variable that secret_ref names.
// Java comes without JSON, so the database writes and reads it here; your program has a library for that.
import java.io.IOException;
import java.net.URI;
import java.net.http.*;
import java.sql.*;
import java.time.Duration;
import java.util.*;

public class Ask {
    static final String SELECT = """
        SELECT pick.*, jsonb_build_object('model', provider_model, 'max_tokens', max_output_tokens,
                   'messages', jsonb_build_array(jsonb_build_object('role', 'user', 'content', ?::text))) AS body
          FROM %s AS pick""";
    static final String PICK = SELECT.formatted(
        "llmquota_pick('chat', org => ?, input_tokens => ?, max_output_tokens => 100, retry_of => ?::uuid)");
    static final String RETRY = SELECT.formatted(
        "llmquota_retry(?, http_status => ?::int, error => ?, latency_ms => ?)");
    static final String RECORD = """
        SELECT answer #>> '{choices,0,message,content}' AS content
          FROM (SELECT ?::jsonb AS answer) AS answered,
               llmquota_record(?, (answer #>> '{usage,prompt_tokens}')::bigint,
                   (answer #>> '{usage,completion_tokens}')::bigint, http_status => ?, latency_ms => ?)""";
    static final int PATIENCE_MS = 20_000;

    /** Runs a statement that answers one row. */
    static ResultSet row(Connection db, String sql, Object... values) throws SQLException {
        PreparedStatement statement = db.prepareStatement(sql);
        statement.closeOnCompletion();
        for (int i = 0; i < values.length; i++)
            statement.setObject(i + 1, values[i]);
        ResultSet row = statement.executeQuery();
        row.next();
        return row;
    }

    static HttpRequest request(ResultSet pick) throws SQLException {
        return HttpRequest.newBuilder(URI.create(pick.getString("base_url") + "/chat/completions"))
            .header("Authorization", "Bearer " + System.getenv(pick.getString("secret_ref")))
            .header("Content-Type", "application/json").timeout(Duration.ofMillis(pick.getInt("timeout_ms")))
            .POST(HttpRequest.BodyPublishers.ofString(pick.getString("body"))).build();
    }

    /** What came of a call; without an answer the status is null and the body says what went wrong. */
    record Reply(Integer status, String body, int latencyMs) {}

    static Reply call(ResultSet pick) throws Exception {
        long start = System.currentTimeMillis();
        try {
            var reply = HttpClient.newHttpClient().send(request(pick), HttpResponse.BodyHandlers.ofString());
            return new Reply(reply.statusCode(), reply.body(), (int) (System.currentTimeMillis() - start));
        } catch (IOException error) {
            return new Reply(null, error.toString(), (int) (System.currentTimeMillis() - start));
        }
    }

    /** Waits as a refused pick asks. */
    static void await(ResultSet pick) throws Exception {
        Integer wait = pick.getObject("retry_after_ms", Integer.class);
        System.err.printf("%s, again in %d ms: %s%n", pick.getString("status"), wait, pick.getString("refusal"));
        if (wait == null || wait > PATIENCE_MS)
            throw new IllegalStateException("no answer: " + pick.getString("status"));
        Thread.sleep(wait);
    }

    static String ask(Connection db, String org, String question) throws Exception {
        int tokens = question.length() / 4 + 1;
        Object failed = null;
        ResultSet pick = row(db, PICK, question, org, tokens, failed);
        while (true) {
            ResultSet last = pick;
            if (!pick.getString("status").equals("granted")) {
                await(pick);
                pick = row(db, PICK, question, org, tokens, failed);
            } else {
                Reply reply = call(pick);
                Object lease = pick.getObject("lease");
                if (Objects.equals(reply.status, 200))
                    try (ResultSet done = row(db, RECORD, reply.body, lease, reply.status, reply.latencyMs)) {
                        return done.getString("content");
                    }
                failed = lease;
                pick = row(db, RETRY, question, lease, reply.status, reply.body, reply.latencyMs);
            }
            last.close();
        }
    }

    // Autocommit is the default: no transaction stays open while the provider works. prepareThreshold: the driver
    // prepares a statement when it has run five times; a pgbouncer before 1.21 in transaction mode cannot have that,
    // and 0 switches it off.
    public static void main(String[] args) throws Exception {
        Map<String, String> env = System.getenv();
        String url = String.format("jdbc:postgresql://%s:%s/%s?prepareThreshold=0",
            env.get("PGHOST"), env.get("PGPORT"), env.get("PGDATABASE"));
        try (Connection db = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"))) {
            for (String question : Arrays.copyOfRange(args, 1, args.length))
                System.out.println(ask(db, args[0], question));
        }
    }
}
