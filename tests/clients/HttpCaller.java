import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * A caller that uses Java's own HttpClient: {@code HttpCaller.java 1|2 [CA]}.
 *
 * <p>HTTP/2 is the client's default. Without TLS it then offers an upgrade to h2c on its first request,
 * as every Java program does that was never told otherwise.
 *
 * <p>Commands: {@code get URL}, {@code post URL LENGTH}, {@code chunked URL LENGTH}. Answers: {@code STATUS VERSION BODY}.
 */
public final class HttpCaller {
  public static void main(String[] arguments) throws Exception {
    var builder = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10));
    builder.version(arguments[0].equals("2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1);
    if (arguments.length > 1) {
      builder.sslContext(trusting(arguments[1]));
    }
    var client = builder.build();
    var commands = new BufferedReader(new InputStreamReader(System.in));
    for (var line = commands.readLine(); line != null; line = commands.readLine()) {
      var words = line.split(" ");
      var request = HttpRequest.newBuilder(URI.create(words[1])).timeout(Duration.ofSeconds(20));
      request.header("authorization", "Bearer the-callers-own").header("x-caller", "java");
      switch (words[0]) {
        case "post" -> request.POST(BodyPublishers.ofByteArray(pattern(Integer.parseInt(words[2]))));
        case "chunked" -> {
          var body = pattern(Integer.parseInt(words[2]));
          request.POST(BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body)));
        }
        default -> request.GET();
      }
      var answer = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
      var version = answer.version() == HttpClient.Version.HTTP_2 ? "HTTP/2" : "HTTP/1.1";
      System.out.println(answer.statusCode() + " " + version + " " + answer.body());
      System.out.flush();
    }
  }

  /** The bytes that the tests expect in a body of this length. */
  private static byte[] pattern(int length) {
    var bytes = new byte[length];
    for (int i = 0; i < length; i++) {
      bytes[i] = (byte) (i * 31L % 251);
    }
    return bytes;
  }

  private static SSLContext trusting(String file) throws Exception {
    var store = KeyStore.getInstance(KeyStore.getDefaultType());
    store.load(null, null);
    try (var pem = new FileInputStream(file)) {
      store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
    }
    var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(store);
    var context = SSLContext.getInstance("TLS");
    context.init(null, trust.getTrustManagers(), null);
    return context;
  }
}
